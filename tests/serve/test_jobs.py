"""Turns of clients in the queue, its limits, and the events of a job."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi")

from sdcffi.serve.jobs import Job, JobRequest, Queue, Work


def job(client: str, model: str = "tiny", size: int = 0) -> Job:
    return Job(JobRequest("generate", model, {}, client), work=Work({}, size))


def queue(*clients: str, most: int = 100, most_per_client: int = 100, most_bytes: int = 1000) -> Queue:
    made = Queue(most, most_per_client, most_bytes)
    for client in clients:
        made.add(job(client))
    return made


def order(made: Queue) -> str:
    taken = ""
    while (next_job := made.take(lambda _: True)) is not None:
        taken += next_job.request.client
    return taken


@pytest.mark.parametrize(
    ("clients", "expected"),
    [("aaab", "abaa"), ("aaabbc", "abcaba"), ("abcabc", "abcabc"), ("a", "a"), ("", ""), ("aaaabbbbc", "abcababab")],
)
def test_clients_have_turns(clients: str, expected: str) -> None:
    assert order(queue(*clients)) == expected


def test_a_client_that_comes_later_does_not_wait_for_all_jobs_of_another() -> None:
    made = queue(*"aaaa")
    made.take(lambda _: True)
    made.add(job("b"))
    assert order(made) in ("abaa", "baaa")


@pytest.mark.parametrize("clients", ["aaab", "aaabbc", "abcabc", "cbbaaa", "aaaabbbbc"])
def test_positions_are_the_order_in_which_jobs_are_taken(clients: str) -> None:
    made = queue(*clients)
    while len(made):
        waiting = made.jobs()
        assert sorted(made.position(one) or 0 for one in waiting) == list(range(1, len(waiting) + 1))
        first = next(one for one in waiting if one.position == 1)
        assert made.take(lambda _: True) is first
        assert first.position is None


def test_a_job_whose_model_is_at_work_is_passed_over() -> None:
    made = queue()
    made.add(job("a", "busy"))
    made.add(job("a", "free"))
    made.add(job("b", "free"))
    taken = [made.take(lambda one: one.request.model == "free") for _ in range(3)]
    assert [one and one.request.client for one in taken] == ["a", "b", None]
    assert len(made) == 1


def test_the_queue_is_bounded() -> None:
    assert queue("a", most=2).why_full("b", 0) is None
    assert "2 jobs wait" in (queue("a", "a", most=2).why_full("b", 0) or "")
    limited = queue("a", "a", most_per_client=2)
    assert "2 of your jobs" in (limited.why_full("a", 0) or "")
    assert limited.why_full("b", 0) is None
    heavy = queue(most_bytes=100)
    assert heavy.why_full("a", 1000) is None  # alone, it could never be taken otherwise
    heavy.add(job("a", size=60))
    assert "input images" in (heavy.why_full("b", 60) or "")
    assert heavy.why_full("b", 40) is None


def test_a_removed_job_is_not_taken() -> None:
    made = queue("a", "b", most_bytes=1)
    first, second = made.jobs()
    assert made.remove(first)
    assert not made.remove(first)
    assert made.take(lambda _: True) is second
    assert made.take(lambda _: True) is None
    assert len(made) == 0


def names(events: list[Any]) -> list[str]:
    return [event.name for event in events]


def test_events_are_repeated_to_who_comes_later() -> None:
    async def follow() -> None:
        one = job("a")
        one.add_event("queued")
        one.add_event("started")
        early = asyncio.ensure_future(_all(one))
        await asyncio.sleep(0)
        for step in range(3):
            one.add_event("progress", {"step": step})
            await asyncio.sleep(0.01)
        late = asyncio.ensure_future(_all(one))
        await asyncio.sleep(0.01)
        one.add_event("image", {"id": "x"})
        one.add_event("finished")
        assert names(await early) == ["queued", "started", *["progress"] * 3, "image", "finished"]
        assert names(await late) == ["queued", "started", "progress", "image", "finished"]  # the last progress only
        assert names(await _all(one)) == ["queued", "started", "image", "finished"]
        last = one.last_event
        assert names([event async for event in one.events(last - 1)]) == ["finished"]
        assert names([event async for event in one.events(last)]) == []
        assert names([event async for event in one.events(last + 50)])[-1] == "finished"  # of an earlier server
        assert await one.done() is one

    asyncio.run(asyncio.wait_for(follow(), 10))


def test_one_who_is_slow_is_not_waited_for_and_gets_the_last_progress() -> None:
    async def follow() -> None:
        one = job("a")
        one.add_event("started")
        events = one.events()
        assert (await anext(events)).name == "started"
        for step in range(1000):
            one.add_event("progress", {"step": step})
        assert (await anext(events)).data == {"step": 999}
        assert len(one._events) == 2

    asyncio.run(asyncio.wait_for(follow(), 10))


async def _all(one: Job) -> list[Any]:
    return [event async for event in one.events()]
