"""Generate images for a table of prompts on a cluster, with Ray Data.

Ray Data hands rows to actors, and each has an engine with the model. An actor, or its machine, may be lost at any time:
Ray starts another one, and gives it the rows of the lost one. Files that are finished are recognised by the records in
them, then as on a second run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.exceptions import RayTaskError

from .._batches.jobs import Job, batch_count, check_outputs, job_of, output_of
from .._batches.prompts import read_prompts
from .._files import expanded
from .._numbers import as_path, check_flags, check_integer, check_number
from .._quoting import shown
from .._warnings import warn
from ..engine.catalogue import refuse_open_variants
from ..engine.results import check_image_path, image_paths
from ..engine.streams import image_format
from ..parameter_files import Arguments, as_arguments, call_names
from ..params.image import ImageParams
from ..params.plain import check_keys
from ..params.struct import StrPath
from .actor import Generator, ModelUnavailable, Task, refuse_unrecorded
from .rows import Row, packed, read_row

__all__ = ["Options", "generate", "model_errors", "outcomes", "rows_of"]

_IN_FLIGHT = 2  # rows that an actor has: one at work, and the next one, so that it does not wait for it
_NAMED = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # Ray's keywords, and what a node calls them


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a batch runs; see `generate`."""

    concurrency: int | tuple[int, int] | None = None
    resources: Mapping[str, float] | None = None
    rows_per_task: int = 1
    overwrite: bool = False
    retries: int = 1
    timeout: float | None = None
    format: str = "PNG"
    digests: bool = True
    paths: bool = False

    def __post_init__(self) -> None:
        check_integer("rows_per_task", self.rows_per_task, 1, 1 << 20)
        check_integer("retries", self.retries, 0, 100)
        check_number("timeout", self.timeout, 0)
        check_flags(overwrite=self.overwrite, digests=self.digests, paths=self.paths)
        least, most = self.concurrency if isinstance(self.concurrency, tuple) else (self.concurrency, self.concurrency)
        check_integer("concurrency", least, 1, 1 << 20)
        check_integer("concurrency", most, least or 1, 1 << 20)
        for name, amount in (self.resources or {}).items():
            check_number(f"resources[{name!r}]", amount, 0)
        image_format(self.format)


def generate(
    prompts: StrPath | Iterable[str | Mapping[str, Any]] | ray.data.Dataset,
    output: StrPath | None = None,
    *,
    concurrency: int | tuple[int, int] | None = None,
    resources: Mapping[str, float] | None = None,
    rows_per_task: int = 1,
    overwrite: bool = False,
    retries: int = 1,
    timeout: float | None = None,
    format: str = "PNG",
    digests: bool = True,
    paths: bool = False,
    **parameters: Any,
) -> ray.data.Dataset:
    """Generate images for each row of a table, on a Ray cluster.

    Connect to the cluster before with ``ray.init``; without that, Ray finds or starts one.

    Parameters
    ----------
    prompts : path, iterable, or Dataset
        A file of prompts as of ``sdcffi generate --prompts``; or prompts, or mappings of parameters, in any iterable;
        or a Dataset whose columns are parameters. Names are those of parameter files. Rows of the first two have
        numbers, from 1; a Dataset may have them, or names, in the column ``row``, and each only once. Two
        whose files would be the same, as those of ``a_0`` and of several images of ``a``, are refused.
    output : path, optional
        Where to save the images: a directory, or a PNG, JPEG or WebP file such as ``out/a.png``: row 7 is then
        ``out/a_0007.png``.
        All machines must have it under this path. Rows whose files are there, with a record that says what the row
        says, are passed over. None: the result has the images, as files' bytes.
    concurrency : int or (int, int), optional
        Number of engines, or the least and the most. None: as many as the cluster's machines have resources for.
    resources : mapping of str to float, optional
        What each engine takes of its machine: ``num_cpus``, ``num_gpus``, ``memory`` in bytes, and resources that you
        named. None: ``{"num_cpus": 1}``. Without ``threads=``, an engine has as many threads as CPUs.
    rows_per_task : int
        Number of rows that are handed out at once. With files, a lost machine loses one image all the same.
    overwrite : bool
        True generates rows again whose files are there.
    retries : int
        How often a row is tried again that crashed its engine's process.
    timeout : float, optional
        Time limit for a row, in seconds. None: no limit.
    format : str
        Format of images in the result, as in `Result.to_bytes`. Files have that of their ending.
    digests, paths : bool
        What the images' records include, see `Result.record`.
    **parameters
        ``model=`` and other parameters of `Engine`; and parameters of `Engine.generate`, for rows without them.

    Returns
    -------
    ray.data.Dataset
        One row for each row, in any order: ``row``, ``state`` (``"generated"``, ``"finished"`` if the files were there,
        or ``"failed"``), ``error`` (what was wrong with it; else empty), ``seeds``, ``seconds``, and ``files`` or
        ``images``. With `output`, all are done; else they are generated when the Dataset is used.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, a file of prompts cannot be read, or two rows have the same files.
    SDError
        If the model cannot be loaded. What was generated before stays.

    Warns
    -----
    UserWarning
        If a row failed, with `output`.

    Notes
    -----
    A row without a seed gets one that depends on its number or name alone: the first 32 bits of the SHA-256 of it as
    text. A row of a Dataset without the column ``row`` is named after its parameters: the first 16 digits of the
    SHA-256 of them as JSON. Rows that are equal in every parameter are the same row then.
    """
    options = Options(
        concurrency=concurrency,
        resources=resources,
        rows_per_task=rows_per_task,
        overwrite=overwrite,
        retries=retries,
        timeout=timeout,
        format=format,
        digests=digests,
        paths=paths,
    )
    table = prompts if isinstance(prompts, ray.data.Dataset) else rows_of(prompts)
    found = outcomes(table, as_arguments(parameters), output, options)
    if output is None:
        return found
    with model_errors():
        done: ray.data.Dataset = found.materialize()
    failed = [row for row in done.select_columns(["row", "error"]).iter_rows() if row["error"]]
    if failed:
        warn(
            f"{len(failed)} of {done.count()} rows failed, the first with: row {failed[0]['row']}:"
            f" {failed[0]['error']}; correct them and call again, which passes over finished rows"
        )
    return done


@contextmanager
def model_errors() -> Iterator[None]:
    """Raise what ended a batch as `ModelUnavailable`, if it was that; Ray keeps only the text of an actor's error.

    Raises
    ------
    ModelUnavailable
        If the model could not be loaded on a machine.
    """
    try:
        yield
    except RayTaskError as error:
        found = re.search(rf"\b{ModelUnavailable.__name__}: (.+)", str(error))
        if found is None:
            raise
        raise ModelUnavailable(found[1]) from None


def outcomes(rows: Any, given: Arguments, output: StrPath | None, options: Options) -> ray.data.Dataset:
    """Return a Dataset of what becomes of each row; they are generated when it is used.

    Parameters
    ----------
    rows : list of Row, or Dataset
    given : Arguments
        Parameters of the engine, and of rows that do not have them.
    output, options
        See `generate`.
    """
    refuse_open_variants(given.engine["context"])
    target = None if output is None else _target(output)
    if target is not None:
        refuse_unrecorded(target, check_image_path(target))
    is_table = isinstance(rows, ray.data.Dataset)
    digits = 0 if is_table else len(str(rows[-1][0]))
    if is_table:
        _check_columns(rows)
        if target is not None:
            _check_files(rows, given, target)
    elif target is not None:
        check_outputs(_jobs(rows, given, target, digits))
    resources = dict(options.resources or {"num_cpus": 1})
    task = Task(
        given=_with_threads(given, resources),
        output=target,
        digits=digits,
        is_packed=not is_table,
        directory=os.getcwd(),
        overwrite=options.overwrite,
        retries=options.retries,
        timeout=options.timeout,
        format=options.format,
        digests=options.digests,
        paths=options.paths,
    )
    if not ray.is_initialized():
        ray.init()
    size = options.concurrency or _places(resources)
    if is_table:
        table = rows.repartition(target_num_rows_per_block=options.rows_per_task)
        least, most = size if isinstance(size, tuple) else (1, size)  # so that reading has a place too
    else:
        tasks = -(-len(rows) // options.rows_per_task)
        table = ray.data.from_items(packed(rows), override_num_blocks=tasks)
        least, most = size if isinstance(size, tuple) else (min(size, tasks), min(size, tasks))
    others = {name: amount for name, amount in resources.items() if name not in _NAMED}
    found: ray.data.Dataset = table.map(
        Generator,
        fn_constructor_args=(task,),
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=_IN_FLIGHT),
        **{name: amount for name, amount in resources.items() if name in _NAMED},
        **({"resources": others} if others else {}),
    )
    return found


def _target(output: StrPath) -> Path:
    """Return the whole path that files are named after: for a directory, ``image.png`` in it."""
    target = Path(os.path.abspath(expanded(output, "output")))
    return target / "image.png" if target.is_dir() else target


def rows_of(prompts: StrPath | Iterable[str | Mapping[str, Any]]) -> list[Row]:
    """Return the rows of a file of prompts, or of prompts and mappings of parameters, with numbers.

    Raises
    ------
    TypeError, ValueError
        If there are none, or something else.
    """
    if isinstance(prompts, (str, os.PathLike)):
        return list(read_prompts(Path(as_path("prompts", prompts))))
    rows: list[Row] = []
    for number, item in enumerate(prompts, 1):
        if not isinstance(item, (str, Mapping)):
            raise TypeError(f"prompts must have strings and mappings of parameters; row {number} is {shown(item)}")
        rows.append((number, {"prompt": item} if isinstance(item, str) else dict(item)))
    if not rows:
        raise ValueError("prompts must have at least one row")
    return rows


def _jobs(rows: list[Row], given: Arguments, target: Path, digits: int) -> Iterator[Job]:
    """Yield the jobs of rows; those that are wrong are reported later, as rows that failed."""
    for row, own in rows:
        with suppress(ValueError, TypeError):
            yield job_of(row, own, given, target, f"row {row}", digits)


def _check_columns(table: ray.data.Dataset) -> None:
    """Refuse columns that are no parameters, and numbers or names that two rows have, before anything is generated."""
    schema = table.schema()
    names = [] if schema is None else list(schema.names)
    check_keys(names, {"row", *call_names(ImageParams)}, "columns of the Dataset")
    if "row" in names:
        column = table.select_columns(["row"])
        rows, different = column.count(), len(column.unique("row"))
        if rows != different:
            raise ValueError(
                f"the column row has {rows} values, but only {different} different ones: number each row once"
            )


def _check_files(table: ray.data.Dataset, given: Arguments, target: Path) -> None:
    """Refuse rows that would write the same file, as row a_0 and the first of several images of row a."""
    columns = table.schema().names
    if "row" not in columns or ("batch_count" not in columns and batch_count(given) == 1):
        return
    owners: dict[str, int | str] = {}
    for cells in table.map(_naming).iter_rows():
        files: list[Path] = []
        with suppress(ValueError, TypeError):  # the row is wrong, which is reported later
            row, own = read_row(cells)
            files = image_paths(output_of(row, target), batch_count(given.updated(as_arguments(own))))
        for file in files:
            if owners.setdefault(file.name, row) != row:
                raise ValueError(
                    f"rows {owners[file.name]} and {row} have the same file {file.name}, since the images of a batch"
                    " are numbered after the row's name: name one of them otherwise"
                )


def _naming(row: dict[str, Any]) -> dict[str, Any]:
    """Return the cells of a row that name its files; select_columns needs them in each part of the table."""
    return {name: row.get(name) for name in ("row", "batch_count")}


def _with_threads(given: Arguments, resources: Mapping[str, float]) -> Arguments:
    """Return parameters with which an engine uses as many threads as it has CPUs."""
    cpus = int(resources.get("num_cpus", 0))
    return as_arguments({"threads": cpus} if cpus else {}).updated(given)


def _places(resources: Mapping[str, float]) -> int:
    """Return how many engines the machines of the cluster have resources for.

    Raises
    ------
    ValueError
        If none has.
    """
    asked = {_NAMED.get(name, name): amount for name, amount in resources.items() if amount}
    if not asked:
        raise ValueError("resources has nothing to count machines by: name something in it, or give concurrency=")
    cluster: Any = ray  # whose function has no annotations
    nodes = [node["Resources"] for node in cluster.nodes() if node["Alive"]]
    count = sum(min(int(node.get(name, 0) / amount) for name, amount in asked.items()) for node in nodes)
    if not count:
        wanted = ", ".join(f"{name}: {amount:g}" for name, amount in asked.items())
        raise ValueError(
            f"no machine of the cluster has {wanted}; give less in resources=, or concurrency= to wait until it grows"
        )
    return count
