"""A failing collector is a fact, not a crash."""

from __future__ import annotations

import logging

import pytest

from apportion.collectors.collector import Batch, DeviceFailure, FailureKind
from apportion.collectors.observed import CollectorStatus, Observed
from apportion.core.clock import ManualClock
from apportion.core.errors import CollectorError, NoData, NotYet, SourceLost
from apportion.core.units import MonotonicNs, Nanoseconds

ONE = Batch(failures=(DeviceFailure(None, 0, "x"),))


class Scripted:
    """Answers or raises what it was given, and takes 7 ns for it."""

    name = "scripted"

    def __init__(self, clock: ManualClock, *answers: Batch | Exception) -> None:
        self.clock = clock
        self.answers = list(answers)

    def start(self) -> None:
        self.collect()

    def collect(self) -> Batch:
        self.clock.advance(7)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.collect()


def made(*answers: Batch | Exception) -> Observed:
    clock = ManualClock(monotonic_ns=100)
    return Observed(Scripted(clock, *answers), clock)


def succeeded(last_success_ns: int) -> CollectorStatus:
    return CollectorStatus(
        "scripted",
        success=True,
        duration_ns=Nanoseconds(7),
        last_success_ns=MonotonicNs(last_success_ns),
    )


def test_success() -> None:
    """Timed on the monotonic clock."""
    observed = made(Batch(), ONE)
    assert observed.status == CollectorStatus("scripted")
    observed.start()
    assert observed.collect() == ONE
    assert observed.status == succeeded(114)


@pytest.mark.parametrize(
    ("error", "absent"), [(SourceLost("gone"), False), (NoData("none here"), True)]
)
def test_failure_and_recovery(error: Exception, absent: bool) -> None:
    """The last success stays, failures are counted, an absent source is told from a broken one."""
    observed = made(ONE, error, error, ONE)
    assert [observed.collect() for _ in range(3)] == [ONE, Batch(), Batch()]
    status = observed.status
    assert (status.success, status.error, status.absent) == (False, str(error), absent)
    assert (status.last_success_ns, status.consecutive_failures) == (107, 2)
    observed.collect()
    assert observed.status == succeeded(128)


def test_a_source_that_somebody_asked_for_may_not_be_absent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said in the log once, at a level that everybody sees; and why, in a word."""
    clock = ManualClock()
    gone = NoData("unloaded", kind="no_driver")
    observed = Observed(Scripted(clock, ONE, gone, gone), clock, required=True)
    for _ in range(3):
        observed.collect()
    assert (observed.status.absent, observed.status.kind) == (False, FailureKind.NO_DRIVER)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_defect_is_contained(caplog: pytest.LogCaptureFixture) -> None:
    """Even a wrong program must not take the agent down; its traceback is logged."""
    observed = made(ZeroDivisionError("by zero"))
    assert observed.collect() == Batch()
    assert observed.status.error == "ZeroDivisionError: by zero"
    assert caplog.records[0].exc_info is not None


def test_a_lasting_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not every second; absence at debug level, never an alert."""
    caplog.set_level(logging.DEBUG)
    observed = made(SourceLost("a"), SourceLost("a"), SourceLost("b"), NoData("c"), ONE)
    for _ in range(5):
        observed.collect()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2 + ["DEBUG", "INFO"]


def test_start_and_close_never_raise() -> None:
    """The agent starts and stops whatever its collectors do."""
    observed = made(SourceLost("no start"), OSError("no close"))
    observed.start()
    assert observed.status.error == "no start"
    observed.close()
    assert observed.name == "scripted"


def test_the_first_seconds_of_a_source_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """What was only just started is not logged as failed nor as back; what lasts is."""
    observed = made(
        NotYet("soon"), NotYet("soon"), ONE, NotYet("soon"), CollectorError("late"), ONE
    )
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            observed.collect()
        assert caplog.messages == []
        for _ in range(3):
            observed.collect()
    assert caplog.messages == ["collector scripted failed: late", "collector scripted works again"]
