"""What a reader of a report has to know before trusting its figures: a sentence each."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from apportion.core.units import NS_PER_SECOND
from apportion.cost.price_row import ESTIMATE, OLD_PRICE_DAYS
from apportion.cost.quantity import Quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from apportion.cost.report_rows import DeviceRow, EntityRow, Proof, RateRow


def as_of_warnings(proof: Proof) -> Iterable[str]:
    """Of a report as of some instant: is it whole?"""
    if proof.open != Quantity():
        seconds = proof.open.device_ns / NS_PER_SECOND
        yield (
            f"{seconds:.1f} device-seconds of these hours had no line yet at that time: what a "
            "report said of them then, as not posted yet, is not known any more"
        )


def unpriced_warnings(devices: Sequence[DeviceRow]) -> Iterable[str]:
    """Devices whose time has no price."""
    for row in devices:
        unpriced_ns = row.metered.unpriced_ns + row.repriced.unpriced_ns
        if unpriced_ns:
            seconds = unpriced_ns / NS_PER_SECOND
            yield (
                f"no price for {row.name} ({row.device}): {seconds:.1f} device-seconds have "
                "quantities and no amount; add it to the price table"
            )


def price_warnings(rates: Sequence[RateRow], unix_ns: int) -> Iterable[str]:
    """Prices that are estimates, or old at some instant."""
    today = _date(unix_ns)
    for row in rates:
        price = f"the price of {row.device_name}, {row.per_hour} {row.currency} per hour"
        if row.basis == ESTIMATE:
            yield f"{price}, is an estimate (source: {row.source})"
        try:
            age_days = (today - date.fromisoformat(row.as_of)).days
        except ValueError:
            yield f"{price}, has no readable date ({row.as_of!r}): its age is unknown"
            continue
        if age_days > OLD_PRICE_DAYS:
            yield f"{price}, is {age_days} days old (as of {row.as_of}): check it"
        if age_days < 0:
            yield f"{price}, is dated in the future ({row.as_of}): check it"


def record_warnings(rows: Sequence[EntityRow], unknown_spans: int) -> Iterable[str]:
    """Records that were lost, and spans of unknown devices."""
    if any(row.incomplete_units is not None for row in rows):
        yield "sums marked ~ are incomplete: records were lost in a part of their time"
    if unknown_spans:
        yield f"{unknown_spans} spans have no cost: it is not known which device they ran on"


def _date(unix_ns: int) -> date:
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (epoch + timedelta(seconds=unix_ns // NS_PER_SECOND)).date()
