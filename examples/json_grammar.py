"""Which characters may come next in a JSON object, so that a model can only write one.

A pushdown automaton over characters: a stack of what is open, and what may follow. Strings have
letters, digits and blanks, numbers are whole, and names and values are short: a language within
JSON's, which every parser reads.
"""

from __future__ import annotations

import copy
from typing import Final

LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz ")
DIGITS: Final = frozenset("0123456789")
LONGEST: Final = 8
DEEPEST: Final = 3
_OBJECT, _ARRAY = "}", "]"
_LEAST: Final = {
    "name": len('"":1'),
    "in_name": len('":1'),
    "colon": len(":1"),
    "value": len("1"),
    "in_text": len('"'),
}
"""Characters before what is open can be closed, by state; none in the others."""


class JsonGrammar:
    """The state after some characters; `allowed` are the next ones, none at the end."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._state = "value"
        self._length = 0

    @property
    def ended(self) -> bool:
        """Whether the object is complete."""
        return self._state == "end"

    @property
    def shortest_end(self) -> int:
        """How many characters complete it, at least."""
        if self._state == "end":
            return 0
        if not self._open:
            return len("{}")
        return _LEAST.get(self._state, 0) + len(self._open)

    def allowed(self, left: int) -> frozenset[str]:
        """Characters that may come next and leave it possible to end within `left` of them."""
        return frozenset(
            character for character in self._next() if self._after(character).shortest_end < left
        )

    def take(self, character: str) -> None:
        """Go on by one of the characters that are allowed.

        Raises:
            ValueError: it is not.
        """
        if character not in self._next():
            message = f"{character!r} cannot follow here"
            raise ValueError(message)
        self._length += 1
        self._state = self._moved(self._state, character)

    def _next(self) -> frozenset[str]:
        deeper = frozenset("{[") if len(self._open) < DEEPEST else frozenset[str]()
        values = DIGITS - {"0"} | {'"'} | deeper
        more = self._length < LONGEST
        closing = frozenset(self._open[-1:])
        return {
            "value": values if self._open else frozenset("{"),
            "first_name": frozenset('"') | closing,
            "name": frozenset('"'),
            "in_name": (LETTERS if more else frozenset[str]()) | {'"'},
            "colon": frozenset(":"),
            "first_value": values | closing,
            "in_text": (LETTERS if more else frozenset[str]()) | {'"'},
            "digit": (DIGITS if more else frozenset[str]()) | {","} | closing,
            "after": frozenset(",") | closing,
            "end": frozenset[str](),
        }[self._state]

    def _after(self, character: str) -> JsonGrammar:
        then = copy.deepcopy(self)
        then.take(character)
        return then

    def _moved(self, state: str, character: str) -> str:
        if state in {"in_name", "in_text"}:
            if character != '"':
                return state
            return "colon" if state == "in_name" else "after"
        if character == '"':
            self._length = 0
            return "in_name" if state in {"first_name", "name"} else "in_text"
        if character == ":":
            return "value"
        if character in "{[":
            self._open.append(_OBJECT if character == "{" else _ARRAY)
            return "first_name" if character == "{" else "first_value"
        if character == ",":
            return "name" if self._open[-1] == _OBJECT else "value"
        if character in "}]":
            self._open.pop()
            return "after" if self._open else "end"
        if state != "digit":
            self._length = 1
        return "digit"
