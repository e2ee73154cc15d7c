"""When an engine's iterations ended, though its server hears of them late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apportion.client.vllm.engine_clock import EngineClock

MS = 1_000_000


def test_what_was_heard_of_at_once_ended_one_after_the_other() -> None:
    """A server that was busy for three iterations does not move them together."""
    clock = EngineClock()
    assert clock.ended(100 * MS, 0) == 100 * MS
    assert [clock.ended(140 * MS, 10 * MS) // MS for _ in range(3)] == [110, 120, 130]
    assert clock.ended(9_000 * MS, 0) == 9_000 * MS  # idle meanwhile


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 300), st.booleans()), min_size=1),
)
def test_never_later_than_heard_and_never_before_the_truth(
    iterations: list[tuple[int, int, bool]],
) -> None:
    """Whatever the delays are: between the true end and the hearing, in order, and no worse."""
    clock, true_ms, heard_ms, ends = EngineClock(), 1_000, 0, list[int]()
    for took_ms, delay_ms, decodes in iterations:
        true_ms += took_ms
        heard_ms = max(heard_ms, true_ms + delay_ms)
        end_ns = clock.ended(heard_ms * MS, took_ms * MS if decodes else 0)
        assert true_ms * MS <= end_ns <= heard_ms * MS
        ends.append(end_ns)
    assert ends == sorted(ends)
