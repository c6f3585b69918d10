"""Files are written whole or not at all, where they can be written at all, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import sdcffi
from sdcffi import OutputError, PathNotFoundError
from sdcffi._files import _swept, check_output, locked, replacing

UNWRITABLE = Path("/sys")  # also for root


def write(path: Path, text: str = "new") -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_a_link_stays_a_link_and_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "elsewhere/real.png", tmp_path / "link.png"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to("elsewhere/real.png")
    write(link)
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    write(tmp_path / "new.png")
    assert stat.S_IMODE((tmp_path / "new.png").stat().st_mode) & 0o400


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    with suppress(ZeroDivisionError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("", ValueError, "is a directory"),
        ("folder", ValueError, "folder is a directory: name a file in it"),
        ("nowhere/a", PathNotFoundError, "nowhere does not exist"),
        ("dangling", PathNotFoundError, "no does not exist"),
        ("loop", ValueError, "not a regular file"),
        ("fifo", ValueError, "not a regular file"),
        ("a\0b", ValueError, "NUL"),
        ("x" * 300, OutputError, "File name too long"),
        ("file/a", PathNotFoundError, "file does not exist"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused(name: str, kind: type[Exception], said: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("no/file")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(kind, match=said):
        check_output(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_directory_that_cannot_be_written_is_found_before_anything_is_written() -> None:
    with pytest.raises(OutputError, match=r"/sys/a cannot be written: .*choose another place") as caught:
        check_output(UNWRITABLE / "a")
    assert isinstance(caught.value, OSError)
    assert caught.value.errno in (errno.EPERM, errno.EACCES, errno.EROFS)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_checking_leaves_the_file_that_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    check_output(tmp_path / "a", 1000)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_too_little_space_is_found_by_reserving_it(tmp_path: Path) -> None:
    """With a limit on the size of files, which the system reports as it reports a full disk."""
    code = (
        "import resource, sys; from pathlib import Path; from sdcffi._files import check_output;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        f"check_output(Path({str(tmp_path / 'a')!r}), int(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(sdcffi.__file__).parents[1])}
    few, many = (
        subprocess.run([sys.executable, "-c", code, size], env=environment, capture_output=True, text=True)
        for size in ("1000", "1001")
    )
    assert few.returncode == 0, few.stderr
    assert "a cannot be written: File too large for 1,001 bytes; make room there" in many.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from sdcffi._files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary: temporary.touch(); print(flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(sdcffi.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

    def start() -> tuple[subprocess.Popen[bytes], Path]:
        before = {*tmp_path.iterdir()}
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], env=environment, **pipes)  # type: ignore[call-overload]
        process.stdout.readline()
        (folder,) = {*tmp_path.iterdir()} - before
        return process, folder

    killed, left = start()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    living, used = start()
    assert left.is_dir()  # it is too young
    long_ago = time.time() - 3600
    for folder in (left, used):
        os.utime(folder, (long_ago, long_ago))
    _swept.discard(tmp_path)
    write(tmp_path / "b")
    assert not left.exists()
    assert used.is_dir()
    living.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_lock_is_held_by_one_and_not_on_a_file_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.touch()
    with locked(path) as first, locked(path) as second:
        assert (first, second) == (True, False)
    with locked(path) as again:
        assert again
    stands_in = tmp_path / "other"
    stands_in.touch()
    opened = os.open

    def replaced(name: Path, flags: int) -> int:
        descriptor = opened(name, flags)
        shutil.move(stands_in, name)
        return descriptor

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(FileNotFoundError), locked(path):
        pass
