"""Energy between readings."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from apportion.cost.energy import EnergyCurve

STEPS = st.lists(st.tuples(st.integers(1, 10**13), st.integers(0, 10**10)), min_size=1, max_size=12)


def curve_of(steps: list[tuple[int, int]]) -> EnergyCurve:
    """A curve that starts at (0, 0) and rises by each (ns, mJ)."""
    knots = [(0, 0)]
    for run_ns, rise_mj in steps:
        knots.append((knots[-1][0] + run_ns, knots[-1][1] + rise_mj))
    return EnergyCurve.of(knots)


@given(STEPS, st.lists(st.floats(-0.1, 1.1), max_size=10))
def test_vector_equals_exact_and_adds_up(steps: list[tuple[int, int]], at: list[float]) -> None:
    """Both forms agree and the pieces sum to the counter's difference."""
    curve = curve_of(steps)
    last_ns = curve.times_ns[-1]
    edges = np.unique(np.array([0, last_ns, *(int(x * last_ns) for x in at)], dtype=np.int64))
    values = curve.at_all(edges)
    assert values.tolist() == [curve.at(int(edge)) for edge in edges]
    assert (np.diff(values) >= 0).all()
    assert int(values.max() - values.min()) == curve.energies_mj[-1]


@given(STEPS, st.integers(0, 10**7), st.lists(st.integers(0, 10**11), max_size=10))
def test_the_part_at_rest_never_exceeds_what_was_used(
    steps: list[tuple[int, int]], power_mw: int, at: list[int]
) -> None:
    """Over any interval it is a whole number between nothing and the interval's energy."""
    curve = curve_of(steps)
    idle = curve.idle_part(power_mw)
    last_mj = curve.energies_mj[-1]
    edges = np.unique(np.array([0, last_mj, *(min(x, last_mj) for x in at)], dtype=np.int64))
    used, rested = np.diff(edges), np.diff(idle.at_all(edges))
    assert (rested >= 0).all()
    assert (rested <= used).all()
    due = sum(min(rise, power_mw * run_ns // 10**9) for run_ns, rise in steps)
    assert int(rested.sum()) == due


def test_without_readings_there_is_no_energy() -> None:
    """No knots: zero everywhere, never an error."""
    assert EnergyCurve.of([]).at_all(np.array([1, 2], dtype=np.int64)).tolist() == [0, 0]
    assert EnergyCurve.of([(5, 7)]).at_all(np.array([1, 9], dtype=np.int64)).tolist() == [7, 7]
