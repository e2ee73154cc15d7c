"""Energy from power samples."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.power_integral import LONGEST_GAP_NS, PowerIntegral

SAMPLES = st.lists(
    st.tuples(st.integers(0, LONGEST_GAP_NS), st.integers(0, 2_000_000)), min_size=1, max_size=40
)


@given(SAMPLES)
def test_sum_is_exact_and_never_falls(steps: list[tuple[int, int]]) -> None:
    """Rounding happens once, at the end: no millijoule is lost however fine the samples are."""
    integral = PowerIntegral()
    time_ns, last_mw, exact, energy_mj = 0, 0, Fraction(0), 0
    for place, (gap_ns, power_mw) in enumerate(steps):
        time_ns += gap_ns
        if place:
            exact += Fraction((power_mw + last_mw) * gap_ns, 2 * 10**9)
        last_mw = power_mw
        before_mj, energy_mj = energy_mj, integral.add(time_ns, power_mw)
        assert energy_mj >= before_mj
        assert energy_mj == int(exact)


def test_constant_power() -> None:
    """350 W over two seconds are 700 J."""
    integral = PowerIntegral()
    assert [integral.add(second * 10**9, 350_000) for second in range(3)] == [0, 350_000, 700_000]


def test_long_gap_starts_anew() -> None:
    """What happened in a long gap is unknown: the counter falls, as after a reset."""
    integral = PowerIntegral()
    integral.add(0, 100_000)
    assert integral.add(10**9, 100_000) == 100_000
    assert integral.add(10**9 + LONGEST_GAP_NS + 1, 100_000) == 0


def test_samples_out_of_order_are_refused() -> None:
    """Negative energy would follow."""
    integral = PowerIntegral()
    integral.add(10, 1)
    with pytest.raises(ValueError, match="time order"):
        integral.add(9, 1)
