"""Exact division among those who share."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.cost.rounding import largest_remainder, stable_hash

WEIGHTS = st.lists(st.integers(0, 1 << 62), min_size=1, max_size=30)


@given(st.integers(0, 1 << 62), WEIGHTS)
def test_parts_sum_to_the_amount(amount: int, weights: list[int]) -> None:
    """Conservation, and nobody is further than one unit from their quota."""
    parts = largest_remainder(amount, weights, range(len(weights)), lambda key: key)
    assert sum(parts) == amount
    total = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        if total:
            assert abs(part * total - amount * weight) < total


@given(st.integers(0, 1000), st.lists(st.integers(0, 5), min_size=1, max_size=12), st.randoms())
def test_order_does_not_matter(amount: int, weights: list[int], rng: random.Random) -> None:
    """Who gets a left-over unit depends on identity, not on arrival."""
    rows = [(f"span-{index}", weight) for index, weight in enumerate(weights)]
    shuffled = rows[:]
    rng.shuffle(shuffled)

    def parts(of: list[tuple[str, int]]) -> dict[str, int]:
        keys = [key for key, _ in of]
        shares = largest_remainder(amount, [weight for _, weight in of], keys, stable_hash)
        return dict(zip(keys, shares, strict=True))

    assert parts(rows) == parts(shuffled)


def test_nobody_to_share_with_is_an_error() -> None:
    """An amount never vanishes silently."""
    with pytest.raises(ValueError, match="nobody to share"):
        largest_remainder(1, [], [], int)


def test_all_weights_zero_count_alike() -> None:
    """Work too short to weigh anything is still paid for."""
    assert sorted(largest_remainder(3, [0, 0], ["a", "b"], stable_hash)) == [1, 2]
