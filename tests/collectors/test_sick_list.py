"""Which devices are left out after hangs."""

from __future__ import annotations

from apportion.collectors.sick_list import FIRST_PAUSE_NS, LONGEST_PAUSE_NS, SickList
from apportion.core.ids import DeviceId

GPU = DeviceId("GPU-1")


def test_once_is_chance_twice_leaves_out() -> None:
    """A single kill of the child must not cost a healthy device a minute."""
    sick = SickList()
    sick.blame(1, GPU, "hung", 0)
    assert sick.skipped(0) == frozenset()
    sick.blame(1, GPU, "hung again", 0)
    assert sick.skipped(0) == {1}
    (failure,) = sick.failures(sick.skipped(0))
    assert (failure.device, failure.index, failure.reason) == (GPU, 1, "hung again")


def test_an_answer_clears() -> None:
    """Two hangs with a good reading in between are two chances."""
    sick = SickList()
    sick.blame(1, GPU, "hung", 0)
    sick.clear(1)
    sick.blame(1, GPU, "hung", 0)
    assert sick.skipped(0) == frozenset()


def test_it_is_tried_again_ever_more_rarely() -> None:
    """Each try of a device that still hangs interrupts the healthy ones."""
    sick = SickList()
    sick.blame(2, None, "hung", 0)
    now_ns, pauses = 0, list[int]()
    for _ in range(12):
        sick.blame(2, None, "hung", now_ns)
        pause_ns = FIRST_PAUSE_NS
        while sick.skipped(now_ns + pause_ns):
            pause_ns *= 2 if pause_ns * 2 <= LONGEST_PAUSE_NS else 1
            if pause_ns * 2 > LONGEST_PAUSE_NS:
                pause_ns = LONGEST_PAUSE_NS
        pauses.append(pause_ns)
        now_ns += pause_ns
    assert pauses[0] == FIRST_PAUSE_NS
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_NS
