"""Results on disk: limits, what survives, and what is left alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from sdcffi import SDError
from sdcffi.serve.store import Store


def data(number: int, ended: float | None = None, images: int = 1) -> dict[str, Any]:
    job_id = f"{number:032x}"
    when = time.time() if ended is None else ended
    return {"id": job_id, "created": when, "ended": when, "images": [{"id": f"{job_id}-{i}"} for i in range(images)]}


def opened(folder: Path, jobs: int = 100, size: int = 1 << 20, seconds: float = 100) -> Store:
    store = Store(folder, jobs, size, seconds)
    store.open()
    return store


def add(store: Store, number: int, size: int = 1000, ended: float | None = None) -> str:
    job = data(number, ended)
    store.image(job["images"][0]["id"]).write_bytes(b"x" * size)
    store.write(job)
    return str(job["id"])


def test_the_oldest_leave_when_there_are_too_many(tmp_path: Path) -> None:
    store = opened(tmp_path, jobs=2)
    ids = [add(store, number) for number in range(4)]
    assert store.expire() == ids[:2]
    assert {path.name[:32] for path in tmp_path.glob("*-0.png")} == set(ids[2:])
    assert store.expire() == []


def test_the_oldest_leave_when_they_are_too_large(tmp_path: Path) -> None:
    store = opened(tmp_path, size=5000)
    ids = [add(store, number, 2000) for number in range(4)]
    assert store.expire() == ids[:2]
    assert store.size <= 5000
    assert store.size == sum(path.stat().st_size for path in tmp_path.iterdir() if path.name != "secret")


def test_the_last_one_stays_though_it_is_too_large(tmp_path: Path) -> None:
    store = opened(tmp_path, size=1500)
    first, last = add(store, 1, 2000), add(store, 2, 2000)
    assert store.expire() == [first]
    assert store.image(f"{last}-0").exists()
    assert store.expire() == []


def test_a_job_that_is_written_again_is_counted_once_with_all_its_files(tmp_path: Path) -> None:
    store = opened(tmp_path, seconds=100)
    old = time.time() - 101
    job_id = add(store, 1, ended=old)
    size = store.size
    store.write(data(1, old))
    assert store.size == size
    store.write(data(1, old, images=0))  # as for one that was not done when an earlier server ended
    assert store.expire() == [job_id]
    assert store.size == 0
    assert [path.name for path in tmp_path.glob(f"{job_id}*")] == []


def test_what_is_too_old_leaves(tmp_path: Path) -> None:
    store = opened(tmp_path, seconds=100)
    old = add(store, 1, ended=time.time() - 101)
    add(store, 2)
    assert store.expire() == [old]


def test_a_later_server_reads_what_is_kept_and_counts_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    ids = [add(store, number, ended=time.time() - 10 + number) for number in range(3)]
    size, secret = store.size, store.secret
    store.close()
    later = Store(tmp_path, 2, 1 << 20, 100)
    assert [job["id"] for job in later.open()] == ids
    assert (later.size, later.secret) == (size, secret)
    assert later.expire() == ids[:1]
    later.close()


def test_damaged_jobs_are_removed_and_foreign_files_are_not(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept = add(store, 1)
    store.close()
    orphan = tmp_path / f"{2:032x}-0.png"
    orphan.write_bytes(b"x")
    damaged = tmp_path / f"{3:032x}.json"
    damaged.write_text('{"id": ')
    other = tmp_path / f"{4:032x}.json"
    other.write_text(json.dumps({**data(4), "id": "../../etc"}))
    foreign = [tmp_path / "holiday.png", tmp_path / "notes.json"]
    for path in foreign:
        path.write_text("mine")
    assert [job["id"] for job in Store(tmp_path, 9, 1 << 20, 100).open()] == [kept]
    assert not any(path.exists() for path in (orphan, damaged, other))
    assert all(path.exists() for path in foreign)


def test_a_directory_has_one_server(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(SDError, match="another server keeps its results"):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


def test_nobody_else_may_read_the_directory(tmp_path: Path) -> None:
    opened(tmp_path / "store").close()
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0
    assert (tmp_path / "store" / "secret").stat().st_mode & 0o077 == 0
