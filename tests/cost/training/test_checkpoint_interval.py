"""Optimal checkpoint intervals, against the exact model that they approximate."""

from __future__ import annotations

from collections.abc import Callable
from math import expm1, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.cost.training.checkpoint_interval import daly_s, waste_ratio, young_s

checkpoints = st.floats(0.1, 3_600)
factors = st.floats(4, 1e6)
"""The MTBF in checkpoints."""


def least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum is least, by golden section on a logarithmic scale."""
    golden = (5**0.5 - 1) / 2
    for _ in range(200):
        left, right = high / (high / low) ** golden, low * (high / low) ** golden
        if function(left) < function(right):
            high = right
        else:
            low = left
    return sqrt(low * high)


def expected_time(interval_s: float, checkpoint_s: float, mtbf_s: float) -> float:
    """Time to solution per second of work, failures being exponential and hitting all of it.

    Each segment of work and its checkpoint is repeated until it passes without a failure.
    """
    return mtbf_s * expm1((interval_s + checkpoint_s) / mtbf_s) / interval_s


@given(checkpoint_s=checkpoints, factor=factors)
def test_young_is_where_the_first_order_waste_is_least(checkpoint_s: float, factor: float) -> None:
    """The formula minimises the waste that the report prints beside it."""
    mtbf_s = checkpoint_s * factor
    best = least(lambda w: waste_ratio(w, checkpoint_s, mtbf_s, 7.0), 1e-3, 1e13)
    assert young_s(checkpoint_s, mtbf_s) == pytest.approx(best, rel=1e-4)


@given(checkpoint_s=checkpoints, factor=factors)
def test_daly_is_nearly_where_the_exact_time_is_least(checkpoint_s: float, factor: float) -> None:
    """Within a percent of the exact optimum, and never worse than Young by that measure."""
    mtbf_s = checkpoint_s * factor
    best = least(lambda w: expected_time(w, checkpoint_s, mtbf_s), mtbf_s * 1e-4, mtbf_s * 10)
    daly, young = daly_s(checkpoint_s, mtbf_s), young_s(checkpoint_s, mtbf_s)
    times = [expected_time(w, checkpoint_s, mtbf_s) for w in (best, daly, young)]
    assert daly == pytest.approx(best, rel=0.01)
    assert times[1] == pytest.approx(times[0], rel=1e-4)
    assert times[1] <= times[2] * (1 + 1e-9)


@given(checkpoint_s=checkpoints, factor=factors, more=st.floats(1.0, 100))
def test_dearer_checkpoints_and_fewer_failures_mean_longer_intervals(
    checkpoint_s: float, factor: float, more: float
) -> None:
    """Both formulas grow with either."""
    mtbf_s = checkpoint_s * factor
    for formula in (young_s, daly_s):
        assert formula(checkpoint_s, mtbf_s * more) >= formula(checkpoint_s, mtbf_s) * (1 - 1e-9)
    assert young_s(checkpoint_s * more, mtbf_s) >= young_s(checkpoint_s, mtbf_s)


def test_where_failures_outrun_checkpoints() -> None:
    """A checkpoint of twice the MTBF: save as often as it fails."""
    assert daly_s(20.0, 10.0) == daly_s(50.0, 10.0) == 10.0


def test_a_known_case() -> None:
    """Three minutes to save and a failure every three hours: save each half hour."""
    assert young_s(180, 3 * 3600) == pytest.approx(1971.8, abs=0.1)
    assert daly_s(180, 3 * 3600) == pytest.approx(1853.7, abs=0.1)
    assert waste_ratio(1971.8, 180, 3 * 3600) == pytest.approx(0.1826, abs=1e-4)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (-1, 1)])
def test_what_is_no_time_is_refused(numbers: tuple[float, float]) -> None:
    """A free checkpoint or a constant failure has no optimal interval."""
    for formula in (young_s, daly_s):
        with pytest.raises(ValueError, match="MTBF"):
            formula(*numbers)
    with pytest.raises(ValueError, match="interval"):
        waste_ratio(0, 1, 1)
