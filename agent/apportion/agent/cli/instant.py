"""An instant as a person gives it on the command line."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Final

from apportion.agent.duration import Duration
from apportion.core.errors import ConfigError

_ISO: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:\d{2})?)?", re.ASCII
)
_DAYS: Final = re.compile(r"(\d{1,5})d", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NS_PER_MICROSECOND: Final = 1_000


def unix_ns_of(text: str, now_unix_ns: int) -> int:
    """The instant (unix ns) that `text` means.

    It is a date or a time in UTC unless it has an offset (`2026-05-01`, `2026-05-01T12:00`,
    `2026-05-01T12:00:00+02:00`), or how long before now (`90m`, `24h`, `7d`), or `now`.

    Raises:
        ConfigError: it is none of these, or too far away.
    """
    unix_ns = now_unix_ns if text == "now" else _parsed(text, now_unix_ns)
    if not 0 <= unix_ns < 1 << 63:
        raise ConfigError(f"{text!r} is not between 1970 and 2262")
    return unix_ns


def _parsed(text: str, now_unix_ns: int) -> int:
    days = _DAYS.fullmatch(text)
    try:
        if days:
            return now_unix_ns - int(days[1]) * 86_400_000_000_000
        if not _ISO.fullmatch(text):
            if text[-1:].isdigit():
                raise ValueError("a bare number could be seconds, or a date")  # noqa: TRY301
            return now_unix_ns - Duration.parse(text).ns
        instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as failure:
        raise ConfigError(
            f"{text!r} is not an instant: give a date or time such as 2026-05-01T12:00 (UTC), "
            "or how long ago, such as 90m, 24h or 7d"
        ) from failure
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=timezone.utc)
    return (instant - _EPOCH) // timedelta(microseconds=1) * _NS_PER_MICROSECOND
