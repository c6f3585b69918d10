"""Read names, types, shapes and places of the tensors of a PyTorch file, without running anything in it.

A PyTorch file is a pickle, a program for a small machine with a stack. `_Machine` runs those of its instructions that
pickle_io.cpp of the engine knows, on plain values: a call of anything but a tensor's makers gives None, as there.
Unlike the engine it counts the steps and the copies, and tells what it does not take.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .._quoting import shown
from .tensors import HeaderError, Tensor, elements, named

__all__ = ["is_pickle", "read_pickled", "read_zipped"]

_AS_SAFETENSORS = "save its tensors as safetensors"
_MOST_PICKLE = 16 << 20  # bytes; that of a checkpoint with 2,000 tensors has 0.3 MiB
_MOST_STEPS = 2_000_000  # a second or two; a checkpoint with 2,000 tensors has 130,000
_MOST_COPIES = 20_000_000  # values; the engine copies each value that it stores or fetches
_MOST_DEPTH = 100
_MOST_ZIPPED = 10_000  # tensors; the engine looks through all of the archive's entries for each
_STORAGES = {  # parse_storage_type
    "torch.FloatStorage": ("F32", 4),
    "torch.DoubleStorage": ("F64", 8),
    "torch.HalfStorage": ("F16", 2),
    "torch.BFloat16Storage": ("BF16", 2),
    "torch.IntStorage": ("I32", 4),
    "torch.LongStorage": ("I64", 8),
}
_MAKERS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEADER = 8  # bytes before the data of each storage


@dataclass
class _Box:
    """A tuple, a list, or a dictionary as its pairs."""

    kind: str
    items: list[Any] = field(default_factory=list)
    depth: int = 1
    weight: int = 1  # values in it, those in its values included
    has_tensors: bool = False


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    width: int
    size: int


@dataclass(frozen=True)
class _Found:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    contiguous: bool


@dataclass(frozen=True)
class _Lost:
    """A tensor that the engine would leave out."""

    maker: str


class _Mark:
    pass


def is_pickle(start: bytes) -> bool:
    """Return whether a file begins as a pickle does, which is PyTorch's format before 1.6, whatever its name is."""
    return start[:1] == b"\x80" and b"\2" <= start[1:2] <= b"\5" and start[8:9] != b"{"


def read_zipped(file: BinaryIO, most: int) -> dict[str, Tensor]:
    """Return the tensors of an archive as `torch.save` writes it, by name.

    Raises
    ------
    HeaderError
        If it is damaged, or if the engine would not read all of it.
    """
    _check_directory(file)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise HeaderError(f"the PyTorch archive is truncated or damaged ({error}): download the file again") from error
    entries = {item.filename: item for item in archive.infolist()}
    pickles = [name for name in entries if "data.pkl" in name]
    if len(pickles) != 1 or not pickles[0].endswith("data.pkl"):
        raise HeaderError(
            f"it is an archive (zip) with {len(pickles)} files data.pkl, not of PyTorch: extract it first"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") for name in entries):
        raise HeaderError("it is a TorchScript program, which is not run: get the model's weights as safetensors")
    order = entries.get(f"{folder}byteorder")
    if order is not None and _content(archive, order, 64).strip() == b"big":
        raise HeaderError(f"its numbers are big-endian, which the engine does not read: {_AS_SAFETENSORS}")
    found = _tensors(_Machine(io.BytesIO(_content(archive, entries[pickles[0]], _MOST_PICKLE))).run())
    if len(found) > min(most, _MOST_ZIPPED):
        raise HeaderError(
            f"a PyTorch archive may have at most {min(most, _MOST_ZIPPED)} tensors, not {len(found)}: {_AS_SAFETENSORS}"
        )
    places: dict[str, tuple[int, int]] = {}
    for name, tensor in found.items():
        key = tensor.storage.key
        if key not in places:
            item = entries.get(f"{folder}data/{key}")
            if item is None:
                raise HeaderError(f"tensor {name!r}: its data {folder}data/{key} is missing from the archive")
            places[key] = _begin(file, item), item.file_size
    return {name: _placed(name, tensor, *places[tensor.storage.key]) for name, tensor in found.items()}


def read_pickled(file: BinaryIO, size: int, most: int) -> dict[str, Tensor]:
    """Return the tensors of a file as PyTorch wrote it before version 1.6, by name.

    Raises
    ------
    HeaderError
        If it is damaged, or if the engine would not read all of it.
    """
    content = io.BytesIO(file.read(_MOST_PICKLE))
    first = _Machine(content).run()
    if first == _MAGIC:
        version, system = _Machine(content).run(), _Machine(content).run()
        if version != 1001:
            raise HeaderError(f"PyTorch's old format has the version 1001, not {shown(version)}: {_AS_SAFETENSORS}")
        if isinstance(system, _Box) and ("little_endian", False) in _pairs(system):
            raise HeaderError(f"its numbers are big-endian, which the engine does not read: {_AS_SAFETENSORS}")
        machine = _Machine(content)
        found = _tensors(machine.run())
    else:
        raise HeaderError(f"it is a pickle without the data of tensors, not of torch.save: {_AS_SAFETENSORS}")
    if len(found) > most:
        raise HeaderError(f"a file may have at most {most} tensors, not {len(found)}")
    _Machine(content).run()  # the keys, in the order of the pickle; the engine sorts them itself
    places, position = {}, content.tell()
    for key, storage in sorted(machine.storages.items()):
        places[key] = position + _LEGACY_HEADER, storage.size * storage.width
        position += _LEGACY_HEADER + storage.size * storage.width
        if position > size:
            raise HeaderError(f"the file is truncated: its data end at byte {size}; download the file again")
    return {name: _placed(name, tensor, *places[tensor.storage.key]) for name, tensor in found.items()}


def _placed(name: str, tensor: _Found, begin: int, size: int) -> Tensor:
    count = elements(name, list(tensor.shape), "PyTorch files", True) * tensor.storage.width
    start = tensor.offset * tensor.storage.width
    if start + count > size:
        raise HeaderError(f"tensor {name!r}: its data end at byte {start + count} of {size}: download the file again")
    return Tensor(tensor.storage.dtype, tensor.shape, begin + start, count)


def _check_directory(file: BinaryIO) -> None:
    """Refuse an archive whose list of files is too long to be read: it would take time and memory without limit."""
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - (1 << 16) - 100))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise HeaderError("the PyTorch archive is truncated: download the file again")
    size = int(struct.unpack_from("<I", tail, at + 12)[0])
    wide = tail.rfind(b"PK\x06\x06", 0, at)
    if wide >= 0 and len(tail) >= wide + 56:
        size = int(struct.unpack_from("<Q", tail, wide + 40)[0])
    if size > _MOST_PICKLE:
        raise HeaderError(f"the archive's list of files may have at most {_MOST_PICKLE} bytes, not {size}")


def _content(archive: zipfile.ZipFile, item: zipfile.ZipInfo, most: int) -> bytes:
    if item.file_size > most:
        raise HeaderError(f"{shown(item.filename)} in the archive may have at most {most} bytes, not {item.file_size}")
    _check_plain(item)
    try:
        return archive.read(item)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise HeaderError(f"the PyTorch archive is damaged ({error}): download the file again") from error


def _check_plain(item: zipfile.ZipInfo) -> None:
    if item.compress_type != zipfile.ZIP_STORED or item.flag_bits & 1 or item.compress_size != item.file_size:
        raise HeaderError(f"the archive is compressed, which torch.save never does: {_AS_SAFETENSORS}")


def _begin(file: BinaryIO, item: zipfile.ZipInfo) -> int:
    _check_plain(item)
    file.seek(item.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise HeaderError("the PyTorch archive is damaged: download the file again")
    return int(item.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26)))


def _tensors(value: Any) -> dict[str, _Found]:
    """Return the tensors as the engine collects them: from dictionaries within dictionaries, by the last key alone."""
    found: dict[str, _Found] = {}
    first_lost: tuple[Any, _Lost] | None = None
    for pairs in _dictionaries(value):
        own = {key: item for key, item in pairs if isinstance(key, str) and isinstance(item, _Found)}
        lost = next(((key, item) for key, item in pairs if isinstance(item, _Lost)), None)
        if own and lost:
            _refuse_lost(*lost)
        found |= own
        first_lost = first_lost or lost
    for name, tensor in found.items():
        if not tensor.contiguous:
            raise HeaderError(
                f"tensor {name!r} is stored transposed, with gaps or as channels_last: save it as"
                " tensor.clone(memory_format=torch.contiguous_format), or the file as safetensors"
            )
    if not found and first_lost:
        _refuse_lost(*first_lost)
    if not found:
        raise HeaderError(f"it has no tensors that the engine finds (in a dictionary by name): {_AS_SAFETENSORS}")
    return {named(name): tensor for name, tensor in found.items()}


def _refuse_lost(key: Any, lost: _Lost) -> None:
    raise HeaderError(
        f"what is named {shown(key)} has tensors saved by {shown(lost.maker)}, which the engine does not read:"
        f" {_AS_SAFETENSORS}"
    )


def _dictionaries(value: Any) -> Iterator[list[tuple[Any, Any]]]:
    pairs = list(_pairs(value))
    yield pairs
    for _, item in pairs:
        if isinstance(item, _Box):
            yield from _dictionaries(item)  # at most _MOST_DEPTH deep


def _pairs(box: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(box, _Box) and box.kind == "dict":
        yield from zip(box.items[::2], box.items[1::2], strict=False)


class _Machine:
    """Runs one pickle, as far as tensors need it."""

    def __init__(self, content: io.BytesIO) -> None:
        self._content = content
        self._stack: list[Any] = []
        self._memo: dict[int, tuple[Any, int]] = {}
        self._last = ""
        self._copies = 0
        self.storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        """Return the value that the pickle makes, and leave its bytes behind.

        Raises
        ------
        HeaderError
            If it is malformed, or needs what the engine does not know.
        """
        try:
            for step, (code, argument, _) in enumerate(pickletools.genops(self._content)):
                if step >= _MOST_STEPS:
                    raise HeaderError(f"its pickle may have at most {_MOST_STEPS} steps: {_AS_SAFETENSORS}")
                if code.name == "STOP":
                    return self._stack.pop()
                self._step(code.name, argument)
        except HeaderError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
            raise HeaderError(
                f"its pickle is malformed or truncated ({shown(str(error))}): download the file again"
            ) from error
        raise HeaderError("its pickle has no end: download the file again")

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name in _PLAIN:
            self._push(argument.decode(errors="replace") if isinstance(argument, (bytes, bytearray)) else argument)
        elif name in _BOXES:
            self._push(_Box(_BOXES[name]))
        elif name in _GETS:
            self._push(self._fetched(*self._memo[argument]))
        elif name in _PUTS:
            top = self._stack[-1]
            self._memo[len(self._memo) if argument is None else argument] = top, _length(top)
            self._count(_weight(top))
        elif name in _HANDLERS:
            _HANDLERS[name](self)
        elif name == "GLOBAL":
            self._last = argument.replace(" ", ".", 1)
            self._push(_Global(self._last))
        elif name not in ("PROTO", "FRAME"):
            whose = f" of {shown(self._last)}" if self._last else ""
            raise HeaderError(f"it holds an object{whose}, which is not made here ({name}): {_AS_SAFETENSORS}")

    def _push(self, value: Any) -> None:
        self._count(_weight(value))
        self._stack.append(value)

    def _count(self, values: int) -> None:
        self._copies += values
        if self._copies > _MOST_COPIES:
            raise HeaderError(f"its pickle copies more than {_MOST_COPIES} values: {_AS_SAFETENSORS}")

    def _fetched(self, value: Any, length: int) -> Any:
        """Return a copy of a value of the memo, as it was when it was put there, as in the engine."""
        return _boxed(value.kind, value.items[:length]) if isinstance(value, _Box) and value.kind != "tuple" else value

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while not isinstance(self._stack[at], _Mark):
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _tuple(self, count: int | None = None) -> None:
        if count is None:
            items = self._since_mark()
        else:
            items = self._stack[-count:]
            del self._stack[-count:]
        self._push(_boxed("tuple", items))

    def _fill(self, kind: str, items: Sequence[Any]) -> None:
        box = self._stack[-1]
        if not isinstance(box, _Box) or box.kind != kind or (kind == "dict" and len(items) % 2):
            raise HeaderError(f"it fills what is no {kind}, after {shown(self._last)}: {_AS_SAFETENSORS}")
        box.items += items
        box.depth = max(box.depth, _depth(items))
        box.weight += sum(map(_weight, items))
        box.has_tensors = box.has_tensors or any(map(_has_tensors, items))
        self._count(sum(map(_weight, items)))

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill("dict", [key, value])

    def _named_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._last = f"{module}.{name}"
        self._push(_Global(self._last))

    def _storage(self) -> None:
        box = self._stack.pop()
        tag, kind, key, _, size = box.items[:5]
        if tag != "storage" or not isinstance(kind, _Global) or not isinstance(size, int) or size < 0:
            raise ValueError("a storage has another form")
        if kind.name not in _STORAGES:
            raise HeaderError(f"it has tensors of type {shown(kind.name)}; the engine reads {', '.join(_STORAGES)}")
        storage = _Storage(str(key), *_STORAGES[kind.name], size)
        self.storages[storage.key] = storage
        self._push(storage)

    def _reduce(self) -> None:
        arguments, maker = self._stack.pop(), self._stack.pop()
        name = maker.name if isinstance(maker, _Global) else ""
        items = arguments.items if isinstance(arguments, _Box) else []
        if name == "collections.OrderedDict" and not items:
            self._push(_Box("dict"))
        elif name in _MAKERS and len(items) >= 4 and isinstance(items[0], _Storage):
            self._push(_found(*items[:4]))
        elif any(map(_has_tensors, items)):
            self._push(_Lost(name))
        else:
            self._push(None)

    def _build(self) -> None:
        state = self._stack.pop()
        if self._stack[-1] is None and _has_tensors(state):
            self._stack[-1] = _Lost(self._last)


def _found(storage: _Storage, offset: Any, shape: Any, strides: Any) -> _Found:
    sizes, steps = (tuple(box.items) for box in (shape, strides))
    if not all(type(value) is int and value >= 0 for value in (offset, *sizes, *steps)) or len(sizes) != len(steps):
        raise ValueError("a tensor has another form")
    expected, step = [], 1
    for size in reversed(sizes):
        expected.append(step)
        step *= size
    return _Found(storage, offset, sizes, math.prod(sizes) == 0 or steps == tuple(reversed(expected)))


def _boxed(kind: str, items: list[Any]) -> _Box:
    return _Box(kind, items, _depth(items), 1 + sum(map(_weight, items)), any(map(_has_tensors, items)))


def _depth(items: Sequence[Any]) -> int:
    depth = 1 + max((item.depth for item in items if isinstance(item, _Box)), default=0)
    if depth > _MOST_DEPTH:
        raise HeaderError(f"its pickle is nested deeper than {_MOST_DEPTH}: {_AS_SAFETENSORS}")
    return depth


def _has_tensors(value: Any) -> bool:
    return value.has_tensors if isinstance(value, _Box) else isinstance(value, (_Found, _Lost, _Storage))


def _weight(value: Any) -> int:
    return value.weight if isinstance(value, _Box) else 1


def _length(value: Any) -> int:
    return len(value.items) if isinstance(value, _Box) else 0


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _Mark()}
_PLAIN = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
        *("STRING", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_BOXES = {"EMPTY_DICT": "dict", "EMPTY_LIST": "list", "EMPTY_SET": "list", "EMPTY_TUPLE": "tuple"}
_GETS, _PUTS = ("BINGET", "LONG_BINGET"), ("BINPUT", "LONG_BINPUT", "MEMOIZE")
_HANDLERS: dict[str, Callable[[_Machine], object]] = {
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine: machine._tuple(1),
    "TUPLE2": lambda machine: machine._tuple(2),
    "TUPLE3": lambda machine: machine._tuple(3),
    "LIST": lambda machine: machine._push(_boxed("list", machine._since_mark())),
    "FROZENSET": lambda machine: machine._push(_boxed("list", machine._since_mark())),
    "APPEND": lambda machine: machine._fill("list", [machine._stack.pop()]),
    "APPENDS": lambda machine: machine._fill("list", machine._since_mark()),
    "ADDITEMS": lambda machine: machine._fill("list", machine._since_mark()),
    "SETITEM": _Machine._set_item,
    "SETITEMS": lambda machine: machine._fill("dict", machine._since_mark()),
    "STACK_GLOBAL": _Machine._named_global,
    "BINPERSID": _Machine._storage,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "POP": lambda machine: machine._stack.pop(),
    "POP_MARK": _Machine._since_mark,
    "DUP": lambda machine: machine._push(machine._fetched(machine._stack[-1], _length(machine._stack[-1]))),
}
