"""Phases divide their root's own amount."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apportion.core.category import Phase, PhaseClock
from apportion.cost.settlement.phases import PhaseSlice, phase_durations, split


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.lists(
        st.tuples(st.sampled_from(Phase), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=8
    ),
)
def test_durations_cover_the_span(
    length: int, first: int, rows: list[tuple[Phase, int, int]]
) -> None:
    """Whatever phases are said, together with the rest they are the span's own time."""
    slices = [
        PhaseSlice(phase, start, start + duration, number, PhaseClock.HOST)
        for number, (phase, start, duration) in enumerate(rows)
    ]
    durations = phase_durations(0, length, first, slices)
    assert sum(duration for _, duration in durations) == length


@given(st.integers(-(10**12), 10**12), st.lists(st.integers(1, 10**9), min_size=1, max_size=6))
def test_split_is_exact(amount: int, lengths: list[int]) -> None:
    """No unit is lost among the phases, of charges and of reallocations."""
    phases = list(Phase)[: len(lengths)]
    assert sum(split(amount, list(zip(phases, lengths, strict=True)))) == amount


def test_the_innermost_phase_wins() -> None:
    """Communication inside backward is communication."""
    slices = [
        PhaseSlice(Phase.BACKWARD, 0, 100, 2, PhaseClock.HOST),
        PhaseSlice(Phase.COMMUNICATION, 40, 60, 3, PhaseClock.HOST),
    ]
    assert phase_durations(0, 120, 0, slices) == [
        (Phase.NONE, 20),
        (Phase.BACKWARD, 80),
        (Phase.COMMUNICATION, 20),
    ]


def test_a_request_is_prefill_until_its_first_token() -> None:
    """Input cost ends where output begins."""
    assert phase_durations(10, 110, 40, []) == [(Phase.PREFILL, 30), (Phase.DECODE, 70)]


def test_launch_times_divide_nothing() -> None:
    """Host time on CUDA measures launches; it is never shown as cost."""
    slices = [PhaseSlice(Phase.FORWARD, 0, 10, 2, PhaseClock.HOST_LAUNCH)]
    assert phase_durations(0, 100, 0, slices) == [(Phase.NONE, 100)]
