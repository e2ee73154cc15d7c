"""Positions are stored and come back."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from apportion.agent.ingest import Position

GOOD: dict[str, object] = {
    "read": 9,
    "holes": [3, 5],
    "lost": 2,
    "abandoned": 1,
    "invalid": 1,
    "end_ns": 7,
}


@st.composite
def positions(draw: st.DrawFn) -> Position:
    read = draw(st.integers(0, 1 << 60))
    holes = sorted(draw(st.sets(st.integers(1, max(1, read)), max_size=5))) if read else []
    left = read - len(holes)
    lost, abandoned, invalid = (draw(st.integers(0, left // 4)) for _ in range(3))
    end_ns = draw(st.integers(0, 1 << 60))
    return Position(read, tuple(holes), lost, abandoned, invalid, end_ns)


@given(positions())
def test_a_position_survives_json(position: Position) -> None:
    """Protects the restart: what was stored is what is read."""
    assert Position.from_json(json.loads(json.dumps(position.to_json()))) == position


def test_the_account_of_a_position() -> None:
    """Protects the sum: what was accepted is what nothing else explains."""
    assert Position.from_json(GOOD).accepted == 3


@pytest.mark.parametrize(
    "change",
    [
        {"read": None},
        {"read": -1},
        {"read": True},
        {"lost": 1.0},
        {"lost": 8},
        {"holes": None},
        {"holes": [5, 3]},
        {"holes": [3, 3]},
        {"holes": [0]},
        {"holes": ["3"]},
        {"holes": [10]},
    ],
)
def test_a_broken_position_is_refused(change: dict[str, object]) -> None:
    """Protects the account from a position that was stored by something else."""
    with pytest.raises(ValueError, match="position"):
        Position.from_json({**GOOD, **change})
