"""Whatever a model would like to say, it can only write JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def grammar(repository: Path) -> Callable[[], Any]:
    """Makes one; the examples import each other by name."""
    sys.path.insert(0, str(repository / "examples"))
    try:
        made: Callable[[], Any] = import_module("json_grammar").JsonGrammar
    finally:
        sys.path.pop(0)
    return made


@given(data=st.data(), budget=st.integers(2, 60))
def test_any_walk_ends_in_an_object(
    grammar: Callable[[], Any], data: st.DataObject, budget: int
) -> None:
    """Every choice of allowed characters ends within the budget, and a parser reads it."""
    state, text = grammar(), ""
    while not state.ended:
        allowed = sorted(state.allowed(budget - len(text)))
        assert allowed, f"nothing may follow {text!r} with {budget - len(text)} left"
        character = data.draw(st.sampled_from(allowed))
        state.take(character)
        text += character
    assert isinstance(json.loads(text), dict)
    assert len(text) <= budget


@pytest.mark.parametrize("text", ["[", "x", "{1", '{"a"1', '{"a":0', '{"a":1]', "{,"])
def test_what_is_no_object_is_refused(grammar: Callable[[], Any], text: str) -> None:
    """The automaton knows what cannot follow."""
    state = grammar()
    for character in text[:-1]:
        state.take(character)
    with pytest.raises(ValueError, match="cannot follow"):
        state.take(text[-1])
