"""What a session's thread makes of an operation's end."""

from __future__ import annotations

from typing import Any

import pytest

from sdcffi import OutOfMemoryError
from sdcffi._bindings.job import Job
from sdcffi._process.inprocess import perform
from sdcffi._process.messages import Done, Failed


class Session:
    """Stands for one whose operation does what it is told."""

    def run(self, _job: Job, outcome: Any) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.mark.parametrize(
    ("raised", "told"), [(MemoryError(), OutOfMemoryError), (KeyError("a"), KeyError), (SystemExit(), SystemExit)]
)
def test_what_an_operation_raises_is_its_outcome(raised: BaseException, told: type[BaseException]) -> None:
    outcome = perform(Session(), Job(print), "run", (raised,))  # type: ignore[arg-type]
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is told


def test_a_result_is_the_outcome_unless_the_job_was_cancelled_before() -> None:
    job = Job(print)
    assert perform(Session(), job, "run", (7,)) == Done(7)  # type: ignore[arg-type]
    job.cancel()
    outcome = perform(Session(), job, "run", (7,))  # type: ignore[arg-type]
    assert isinstance(outcome, Failed)
