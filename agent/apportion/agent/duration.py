"""A duration as a person writes it: `500ms`, `2s`, `10m`, `1h`, `90d`, or a number of seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

_UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_PATTERN: Final = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*(ns|us|ms|s|m|h|d)?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time in whole nanoseconds."""

    ns: int

    @classmethod
    def parse(cls, value: object) -> Duration:
        """A duration from text with a unit, or from a number of seconds.

        Raises:
            ValueError: it is neither, it is negative, or it is no whole number of nanoseconds.
        """
        if isinstance(value, Duration):
            return value
        match = _PATTERN.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(f"{value!r} is not a duration such as 500ms or 2s")
        amount = Decimal(match[1]) * _UNITS_NS[match[2] or "s"]
        if amount != int(amount):
            raise ValueError(f"{value!r} is not a whole number of nanoseconds")
        return cls(int(amount))

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s", "ms", "us"):
            if self.ns and self.ns % _UNITS_NS[unit] == 0:
                return f"{self.ns // _UNITS_NS[unit]}{unit}"
        return f"{self.ns}ns" if self.ns else "0s"
