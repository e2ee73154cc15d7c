"""Checks for JSON from another process: each turns a value into ours or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

Check = Callable[[object], object]
"""A JSON value to ours; ValueError where it cannot be one."""


def as_object(value: object) -> dict[str, object]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError("an object is needed")  # noqa: TRY004 - one error type for all checks
    return cast("dict[str, object]", value)


def as_flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{_short(value)} is neither true nor false")  # noqa: TRY004 - as above
    return value


def as_list(value: object, longest: int) -> list[object]:
    """A list of at most `longest` items."""
    if not isinstance(value, list):
        raise ValueError("a list is needed")  # noqa: TRY004 - one error type for all checks
    items = cast("list[object]", value)
    if len(items) > longest:
        raise ValueError(f"at most {longest} items are accepted, not {len(items)}")
    return items


def whole(largest: int) -> Check:
    """An integer of 0 to `largest`; a bool is none."""

    def check(value: object) -> int:
        if type(value) is not int or not 0 <= value <= largest:
            raise ValueError(f"{_short(value)} is not a whole number of 0 to {largest}")
        return value

    return check


def real(least: float, largest: float) -> Check:
    """A finite number of `least` to `largest`."""

    def check(value: object) -> float:
        if type(value) not in {int, float}:
            raise ValueError(f"{_short(value)} is not a number")
        number = cast("float", value)
        if not math.isfinite(number) or not least <= number <= largest:
            raise ValueError(f"{_short(value)} is outside {least} to {largest}")
        return float(number)

    return check


def text(longest: int) -> Check:
    """Printable text of at most `longest` characters, on one line."""

    def check(value: object) -> str:
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise ValueError(f"printable text of at most {longest} characters is needed")
        return value

    return check


def one_of(*choices: str) -> Check:
    """One of these words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{_short(value)} is none of {', '.join(choices)}")
        return value

    return check


def list_of(item: Check, longest: int) -> Check:
    """A tuple of at most `longest` checked items."""

    def check(value: object) -> tuple[object, ...]:
        return tuple(item(each) for each in as_list(value, longest))

    return check


def checked(value: object, table: Mapping[str, Check], needed: tuple[str, ...]) -> dict[str, Any]:
    """The keys of an object, each checked by `table`; all of `needed` must be there.

    Raises:
        ValueError: a key is missing, unknown or wrong; the sentence names it.
    """
    document = as_object(value)
    for key in needed:
        if document.get(key) is None:
            raise ValueError(f"{key} is missing")
    result: dict[str, Any] = {}
    for key, item in document.items():
        check = table.get(key)
        if check is None:
            raise ValueError(f"{_short(key)} is not a known key")
        try:
            result[key] = check(item)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    return result


def one_line(sentence: str, longest: int) -> str:
    """Any text as `text(longest)` accepts it: unprintable characters become `?`."""
    return "".join(each if each.isprintable() else "?" for each in sentence[:longest])


def _short(value: object) -> str:
    """A bounded picture of a value for a message; an integer of any size is safe."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    return ascii(value)[:40]
