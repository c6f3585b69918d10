"""Run the lanes of a work in turn.

A lane's first call only warms up, unless it takes long; in each round after it every lane is called once, in an order
that turns around. A lane whose calls have taken `patience` seconds in all is left out from then on, so a slow one may
have a single call; a ratio is the median of those of the rounds in which both sides took part. Where the lanes of a
work run apart, each does all of its rounds before the next one opens.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from sdcffi import SDError

from .contenders import Job, Session
from .processes import ContenderError, busy_neighbour
from .worker import Sample
from .works import Lane, Work, contender

FAILURES = (ContenderError, SDError, OSError)  # of one contender; the others go on
SHORT = 4.0  # seconds that a call may take and still be thrown away, to warm up


@dataclass
class Runs:
    """What a lane did.

    Parameters
    ----------
    state : str
        ``"measured"``, or why there is nothing.
    samples : list
        For each round the parts of the call, or None where the lane was left out.
    """

    state: str = "measured"
    samples: list[Sample | None] = field(default_factory=list)

    def values(self, part: str) -> list[float]:
        """What was measured of a part."""
        return [sample[part] for sample in self.samples if sample and part in sample]


def compare(work: Work, lanes: tuple[Lane, ...], rounds: int, patience: float, threads: int | None) -> dict[str, Runs]:
    """Run a work; what each lane did, by its label."""
    if work.apart:
        together = replace(work, apart=False)
        return {lane.label: compare(together, (lane,), rounds, patience, threads)[lane.label] for lane in lanes}
    job = work.job(threads)
    runs = {lane.label: Runs(contender(lane).missing() or "measured") for lane in lanes}
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        spent = dict.fromkeys(runs, 0.0)

        def call(lane: Lane) -> Sample | None:
            started = time.perf_counter()
            try:
                with busy_neighbour() if lane.neighbour else nullcontext():
                    return _once(lane, job) if work.fresh else sessions[lane.label].call(**lane.draw())
            except FAILURES as error:
                fail(lane, error)
                return None
            finally:
                spent[lane.label] += time.perf_counter() - started

        def fail(lane: Lane, error: Exception) -> None:
            print(f"{lane.label}: {error}", file=sys.stderr)
            runs[lane.label].state = "failed"

        def measured() -> list[Lane]:
            return [lane for lane in lanes if runs[lane.label].state == "measured"]

        for lane in measured():
            try:
                if not work.fresh:
                    sessions[lane.label] = stack.enter_context(closing(contender(lane).open(job)))
            except FAILURES as error:
                fail(lane, error)
                continue
            sample = call(lane)
            if sample and spent[lane.label] > SHORT:
                runs[lane.label].samples.append(sample)
            else:
                spent[lane.label] = 0.0
        for number in range(rounds):
            active = [lane for lane in measured() if spent[lane.label] < patience]
            for lane in active if number % 2 else reversed(active):
                if len(runs[lane.label].samples) <= number:
                    runs[lane.label].samples.append(call(lane))
    return runs


def _once(lane: Lane, job: Job) -> Sample:
    with closing(contender(lane).open(job)) as session:
        return session.call(**lane.draw())


def ratios(one: Runs, other: Runs, part: str) -> list[float]:
    """The quotients of the rounds in which both took part."""
    return [a[part] / b[part] for a, b in pairs(one, other, part) if b[part]]


def pairs(one: Runs, other: Runs, part: str) -> list[tuple[Sample, Sample]]:
    """The rounds in which both took part."""
    both = zip(one.samples, other.samples, strict=False)
    return [(a, b) for a, b in both if a and b and part in a and part in b]


def median(values: list[float]) -> Any:
    """The median, or None of nothing."""
    return statistics.median(values) if values else None
