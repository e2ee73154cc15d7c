"""Figures as people and spreadsheets read them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

from apportion.core.units import MJ_PER_JOULE, NS_PER_SECOND

NOTHING: Final = "-"


def count(number: int | None) -> str:
    """With thousands apart."""
    return NOTHING if number is None else f"{number:,}"


def seconds(duration_ns: int) -> str:
    """To the millisecond."""
    return f"{duration_ns / NS_PER_SECOND:,.3f}"


def joules(energy_mj: int | None) -> str:
    """To the millijoule."""
    return NOTHING if energy_mj is None else f"{energy_mj / MJ_PER_JOULE:,.3f}"


def instant(unix_ns: int | None) -> str | None:
    """UTC, to the second."""
    if unix_ns is None:
        return None
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    moment = epoch + timedelta(seconds=unix_ns // NS_PER_SECOND)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def cell(name: str | None) -> str | None:
    """A name that a spreadsheet would run as a formula is quoted; names come from workloads."""
    return f"'{name}" if name and name[0] in "=+-@\t\r" else name
