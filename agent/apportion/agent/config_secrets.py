"""Locations that may hold a password, as they may be shown."""

from __future__ import annotations

import re
from typing import Final

from apportion.core.errors import LedgerError
from apportion.cost.ledger.engine import ledger_url, shown

_SECRET_OF_URL: Final = re.compile(r"(?<=//).*@|(?<=\?).*")
"""User and password, whatever they are made of, and the query."""


def mask_url(location: str) -> str:
    """A ledger's path or URL without its password, nor anything in its query that may be one."""
    if "://" not in location:
        return location
    try:
        return shown(ledger_url(location))
    except LedgerError:
        return f"{location.partition('://')[0]}://***"


def mask_http_url(location: str) -> str:
    """A path or URL of something that is read over HTTP, without user, password and query."""
    return _SECRET_OF_URL.sub(_masked, location)


def _masked(secret: re.Match[str]) -> str:
    return "***@" if secret[0].endswith("@") else "***"
