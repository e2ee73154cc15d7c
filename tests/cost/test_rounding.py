"""Exact division among those who share."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apportion.cost.rounding import largest_remainder, mixed_hash, split_in_two, stable_hash

MOST = 1 << 62
"""Weights are shares of an hour in fixed point: their sum stays below it."""
WEIGHTS = st.lists(st.integers(0, MOST >> 5), min_size=1, max_size=30)


def column(values: list[int]) -> NDArray[np.int64]:
    """A column as the code has it."""
    return np.array(values, dtype=np.int64)


def hashes(keys: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A stable hash of each key."""
    return np.array([stable_hash(f"span-{key}") for key in keys.tolist()], dtype=np.uint64)


@given(st.integers(0, MOST), WEIGHTS)
def test_parts_sum_to_the_amount(amount: int, weights: list[int]) -> None:
    """Conservation, and nobody is further than one unit from their quota."""
    keys = column(list(range(len(weights))))
    parts = largest_remainder(amount, column(weights), keys, hashes).tolist()
    assert sum(parts) == amount
    total = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        if total:
            assert abs(part * total - amount * weight) < total


@given(st.integers(0, 1000), st.lists(st.integers(0, 5), min_size=1, max_size=12), st.randoms())
def test_order_does_not_matter(amount: int, weights: list[int], rng: random.Random) -> None:
    """Who gets a left-over unit depends on identity, not on arrival."""
    rows = list(enumerate(weights))
    shuffled = rows[:]
    rng.shuffle(shuffled)

    def parts(of: list[tuple[int, int]]) -> dict[int, int]:
        keys = [key for key, _ in of]
        weighted = column([weight for _, weight in of])
        shares = largest_remainder(amount, weighted, column(keys), hashes).tolist()
        return dict(zip(keys, shares, strict=True))

    assert parts(rows) == parts(shuffled)


@given(
    st.lists(
        st.tuples(st.integers(0, MOST), st.integers(0, 10**13), st.integers(1, 10**13)),
        min_size=1,
        max_size=8,
    )
)
def test_two_parts_are_whole(rows: list[tuple[int, int, int]]) -> None:
    """Prefill and decode: within one unit of the quota, never more than the amount."""
    rows = [(amount, min(first, whole), whole) for amount, first, whole in rows]
    amounts, first, whole = (column(list(values)) for values in zip(*rows, strict=True))
    parts = split_in_two(amounts, first, whole).tolist()
    for part, (amount, size, total) in zip(parts, rows, strict=True):
        assert 0 <= part <= amount
        assert abs(part * total - amount * size) < total


def test_nobody_to_share_with_is_an_error() -> None:
    """An amount never vanishes silently."""
    nobody = column([])
    with pytest.raises(ValueError, match="nobody to share"):
        largest_remainder(1, nobody, nobody, hashes)
    assert largest_remainder(0, nobody, nobody, hashes).size == 0


def test_all_weights_zero_count_alike() -> None:
    """Work too short to weigh anything is still paid for."""
    assert sorted(largest_remainder(3, column([0, 0]), column([1, 2]), hashes).tolist()) == [1, 2]


def test_hashes_are_the_same_on_every_machine() -> None:
    """A ledger made elsewhere divides alike: these numbers never change."""
    assert stable_hash("span") == 10302555805918554223
    mixed = mixed_hash(np.array([1, 1], np.uint64), column([1, 2])).tolist()
    assert mixed == [10451216379200822465, 13757245211066428519]
