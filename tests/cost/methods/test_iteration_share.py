"""Instants are divided by the batch that ran in them; what no batch knows gets its presence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.category import Category
from apportion.cost.apportionment import Claims, Windows, apportion
from apportion.cost.methods.iteration_share import PART_BITS, Batches, IterationShare

ONE = 1 << PART_BITS
Member = tuple[int, int, float]
"""Iteration, claim's key, part."""


def batches(edges: list[tuple[int, int, int]], members: list[Member], known: list[int]) -> Batches:
    """Iterations as (engine, begun, end)."""
    engine, begun, end = np.array(edges, np.int64).reshape(-1, 3).T.copy()
    owner, key = (np.array([m[at] for m in members], np.int64) for at in (0, 1))
    part = np.array([round(m[2] * ONE) for m in members], np.int64)
    return Batches(
        engine,
        begun,
        end,
        owner,
        key,
        part,
        np.zeros(owner.size, np.bool_),
        np.array(known),
        np.array(known),
    )


def divided(claims: list[tuple[int, int, int]], of: Batches, length: int = 100) -> dict[int, int]:
    """Device time by key, of [0, length), of claims (start, end, key) of requests by need."""
    plain = Claims.of([(start, end, Category.DIRECT, key) for start, end, key in claims])
    nothing = np.zeros(len(claims), np.int64)
    windows = Windows(plain.start_ns, plain.end_ns, nothing, nothing)
    shares = apportion(
        0,
        length,
        Claims(plain.start_ns, plain.end_ns, plain.category, plain.key, windows),
        meter=None,
        energy=None,
        apportioner=IterationShare(of),
        tie=lambda rows: rows.astype(np.uint64),
    )
    return dict(zip(plain.key.tolist(), shares.device_ns.tolist(), strict=True))


def test_each_iteration_goes_to_its_batch() -> None:
    """Who is known and in no batch waits for nothing; the rest of the time is anybody's."""
    of = batches([(0, 0, 40), (0, 40, 80)], [(0, 1, 0.25), (0, 2, 0.75), (1, 2, 1.0)], [1, 2, 3])
    assert divided([(0, 100, 1), (0, 100, 2), (0, 100, 3)], of) == {1: 17, 2: 77, 3: 6}


def test_who_has_ended_or_not_begun_pays_nothing() -> None:
    """A member that is not there for all of the iteration leaves the rest to the others."""
    of = batches([(0, 0, 100)], [(0, 1, 0.5), (0, 2, 0.5)], [1, 2])
    assert divided([(0, 100, 1), (60, 100, 2)], of) == {1: 80, 2: 20}


def test_engines_at_once_have_equal_parts_and_a_step_its_presence() -> None:
    """Two engines on one device, and a step that no engine knows."""
    of = batches([(0, 0, 100), (1, 0, 100)], [(0, 1, 1.0), (1, 2, 1.0)], [1, 2])
    assert divided([(0, 100, 1), (0, 100, 2)], of) == {1: 50, 2: 50}
    assert divided([(0, 90, 1), (0, 90, 2), (0, 90, 9)], of, 90) == {1: 30, 2: 30, 9: 30}


@given(st.data())
def test_the_order_of_nothing_matters(data: st.DataObject) -> None:
    """Neither of claims nor of members, and all of the time is given."""
    ends = sorted(data.draw(st.sets(st.integers(1, 100), min_size=1, max_size=5)))
    edges = [(0, begun, end) for begun, end in zip([0, *ends], ends, strict=False)]
    keys = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6, unique=True))
    claims = [(0, 100, 0), *((0, data.draw(st.integers(1, 100)), key) for key in keys)]
    pairs = [(at, key) for at in range(len(edges)) for key in keys]
    chosen = data.draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1))
    members = [(at, key, data.draw(st.floats(0.001, 1.0))) for at, key in chosen]
    plain = divided(claims, batches(edges, members, [0, *sorted(keys)]))
    mixed = batches(edges, data.draw(st.permutations(members)), [0, *sorted(keys)])
    assert divided(data.draw(st.permutations(claims)), mixed) == plain
    assert sum(plain.values()) == 100


@pytest.mark.parametrize("length", [1, 10**9])
def test_a_member_of_next_to_nothing(length: int) -> None:
    """The only one that is there of a batch pays all, however small its part was."""
    of = batches([(0, 0, length)], [(0, 1, 1 / ONE), (0, 2, 1.0)], [1, 2])
    assert divided([(0, length, 1)], of, length) == {1: length}
