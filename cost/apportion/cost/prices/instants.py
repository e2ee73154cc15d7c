"""Dates and times as price tables write them."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone
from typing import Final

from apportion.core.units import NS_PER_HOUR, UnixNs

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.(\d{3}|\d{6}))?)?(Z|[+-]\d{2}:\d{2})?)?", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NS_PER_MICROSECOND: Final = 1_000
MAX_UNIX_NS: Final = (date(2262, 1, 1) - _EPOCH.date()).days * 24 * NS_PER_HOUR


def date_of(text: str) -> date:
    """The date that `text` is, such as 2026-05-01.

    Raises:
        ValueError: it is none.
    """
    if not _DATE.fullmatch(text):
        raise ValueError(text)
    return date.fromisoformat(text)


def instant_ns(text: str) -> UnixNs:
    """The instant that a date or time means; UTC where it has no offset.

    Raises:
        ValueError: it is neither, or not in the years that 64 bits of nanoseconds can count.
    """
    if not _INSTANT.fullmatch(text):
        raise ValueError(text)
    instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=timezone.utc)
    unix_ns = (instant - _EPOCH) // timedelta(microseconds=1) * _NS_PER_MICROSECOND
    if not 0 <= unix_ns < MAX_UNIX_NS:
        raise ValueError(text)
    return UnixNs(unix_ns)


def instant_text(unix_ns: int) -> str:
    """An instant as `instant_ns` reads it, to the microsecond."""
    instant = _EPOCH + timedelta(microseconds=unix_ns // _NS_PER_MICROSECOND)
    return instant.isoformat().replace("+00:00", "Z")
