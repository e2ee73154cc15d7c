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


def test_without_readings_there_is_no_energy() -> None:
    """No knots: zero everywhere, never an error."""
    assert EnergyCurve.of([]).at_all(np.array([1, 2], dtype=np.int64)).tolist() == [0, 0]
    assert EnergyCurve.of([(5, 7)]).at_all(np.array([1, 9], dtype=np.int64)).tolist() == [7, 7]
