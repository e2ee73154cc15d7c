"""What a device's time without a span is: idleness needs evidence."""

from __future__ import annotations

from apportion.core.category import Category
from apportion.cost.settlement.evidence import Window, judge

SECOND = 1_000_000_000


def test_busy_without_a_client_is_uninstrumented() -> None:
    """90 % activity and no span at all: somebody computes unseen."""
    verdict = judge(Window(0, SECOND, 0.9), 0, [], [7])
    assert verdict.category is Category.UNINSTRUMENTED
    assert verdict.entities == (7,)


def test_quiet_and_held_by_nobody_is_unallocated() -> None:
    """0 % and no workload: OpenCost's idle."""
    assert judge(Window(0, SECOND, 0.0), 0, [], []).category is Category.UNALLOCATED


def test_a_short_request_in_a_quiet_second_leaves_allocated_idle() -> None:
    """One 10 ms request at 2 % utilisation: sampling error is not hidden work."""
    verdict = judge(Window(0, SECOND, 0.02), SECOND // 100, [3], [])
    assert verdict.category is Category.ALLOCATED_IDLE
    assert verdict.entities == (3,)


def test_a_fifth_of_the_uncovered_time_is_the_border() -> None:
    """The rule of the design, at both sides of its edge."""
    at = judge(Window(0, SECOND, 0.2), 0, [1], [])
    above = judge(Window(0, SECOND, 0.201), 0, [1], [])
    assert at.category is Category.ALLOCATED_IDLE
    assert above.category is Category.UNINSTRUMENTED


def test_without_telemetry_nothing_is_called_idle() -> None:
    """No evidence: unattributed, and the reason is kept."""
    verdict = judge(Window(0, SECOND, None, "telemetry_gap"), 0, [1], [])
    assert verdict.category is Category.UNATTRIBUTED
    assert verdict.reason == "telemetry_gap"
    assert verdict.entities == ()
