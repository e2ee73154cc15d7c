"""The counters of a span: plain ints, summed over calls of `add()`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Final, TypeAlias

from apportion.client.counting import count
from apportion.client.layout import ABSENT, COUNTER_ALIASES, COUNTERS

NUMBER_LIMIT: Final = 1 << 53
"""Counters and step numbers stay below it, as every reader and every double can hold them."""

Values: TypeAlias = tuple[int, int, int, int, int, int, int]
"""In the order of `layout.COUNTERS`; what was not reported is ABSENT."""

NONE_REPORTED: Final[Values] = (ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT)

_ALIASES: Final = {alias: COUNTERS.index(name) for alias, name in COUNTER_ALIASES.items()}


def summed(before: Values, given: Iterable[object], others: Mapping[str, object]) -> Values:
    """Counters after an `add()`, where None adds nothing.

    Args:
        before: What they were.
        given: In the order of `layout.COUNTERS`.
        others: By another name. What is unknown, no plain int, negative or absurd is ignored and
            counted, unread: to look into a tensor could make the program wait for its device.
    """
    values = list(before)
    aliased = ((_ALIASES.get(name, -1), value) for name, value in others.items())
    for index, value in chain(enumerate(given), aliased):
        if value is None:
            continue
        if type(value) is int and value >= 0 and index >= 0:
            had = values[index]
            total = value if had == ABSENT else had + value
            if total < NUMBER_LIMIT:
                values[index] = total
                continue
        count("counter_ignored")
    one, two, three, four, five, six, seven = values
    return one, two, three, four, five, six, seven
