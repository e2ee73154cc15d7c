"""Values as a recorded trace writes them: times to the nanosecond, counts as whole numbers."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Final

from apportion.core.errors import TraceFileError

if TYPE_CHECKING:
    from pathlib import Path

_NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d{0,30})?([eE][+-]?\d{1,2})?", re.ASCII)
_COUNT: Final = re.compile(r"\d{1,12}(\.0{1,6})?", re.ASCII)
_MAX_SECONDS: Final = Decimal(9_000_000_000)
_NS: Final = Decimal(1_000_000_000)
MAX_TOKENS: Final = 1_000_000_000


class Place:
    """A line of a file: what it cannot be is refused with its place."""

    def __init__(self, path: Path, line: int) -> None:
        self.path = path
        self.line = line

    def error(self, message: str) -> TraceFileError:
        """A refusal that names this line."""
        return TraceFileError(message, path=self.path, line=self.line)

    def nanoseconds(self, name: str, text: str) -> int:
        """Seconds in decimal, rounded half to even to the nanosecond."""
        if not _NUMBER.fullmatch(text):
            raise self.error(f"{name} {shown(text)} is not a time in seconds such as 12.000250")
        seconds = Decimal(text)
        if abs(seconds) > _MAX_SECONDS:
            raise self.error(
                f"{name} {shown(text)} is out of range: give seconds, not milli- or nanoseconds"
            )
        return int((seconds * _NS).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))

    def count(self, name: str, text: str) -> int:
        """A whole number from 0 to 10^9; `12.0` is one, as some exporters write it."""
        if not _COUNT.fullmatch(text):
            raise self.error(f"{name} {shown(text)} is not a whole number of tokens from 0")
        value = int(text.partition(".")[0])
        if value > MAX_TOKENS:
            raise self.error(f"{name} {value} is above {MAX_TOKENS}")
        return value


def shown(text: str) -> str:
    """A value as it may stand in a message: short, printable, quoted."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
