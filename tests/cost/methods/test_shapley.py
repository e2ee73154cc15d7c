"""The oracle is the Shapley value: against all permutations, and against a published run."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
from benchmarks.evaluation.cases import golden, golden_difference_ns, golden_weights
from benchmarks.evaluation.engine import ROOFLINE
from hypothesis import given, settings
from hypothesis import strategies as st

from apportion.cost.methods.shapley import linear_values, shapley


def brute_force(new_tokens: list[int]) -> list[float]:
    """What each member adds to g, averaged over every order of arrival."""
    totals = [0.0] * len(new_tokens)
    orders = list(permutations(range(len(new_tokens))))
    for order in orders:
        tokens, before = 0, 0.0
        for member in order:
            tokens += new_tokens[member]
            after = float(ROOFLINE.linear_s(np.array([float(tokens)]))[0])
            totals[member] += after - before
            before = after
    return [total / len(orders) for total in totals]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(2, 600), max_size=3).flatmap(
        lambda sizes: st.permutations([*sizes, 1, 1, 1])
    )
)
def test_it_is_the_average_over_all_orders(new_tokens: list[int]) -> None:
    """The closed form counts coalitions; permutations are the definition."""
    values = linear_values(np.array(new_tokens), ROOFLINE)
    np.testing.assert_allclose(values, brute_force(new_tokens), rtol=1e-10, atol=1e-15)


def test_it_is_the_published_oracle(published: Path) -> None:
    """On the golden trace each request's value is the published one to a microsecond."""
    run = golden(published)
    mine = shapley(run.trace, run.iterations, ROOFLINE)
    expected = golden_weights(published)
    assert np.abs(mine.seconds - expected / (1e9 * 1024)).max() < 1e-6


def test_the_engine_makes_the_golden_trace(published: Path) -> None:
    """The simulator counts only because it gives the published times to a microsecond."""
    assert golden_difference_ns(published) < 1_000
