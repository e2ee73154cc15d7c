"""What is doubtful about a price table that is valid: it may be right, but somebody should look."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.cost.price_row import OLD_PRICE_DAYS
from apportion.cost.prices.device_names import nvml_name, similar_names
from apportion.cost.prices.instants import instant_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from apportion.cost.price_row import Rate
    from apportion.cost.rate import PriceTable

ABSURD_TIMES: Final = 10
"""So many times an estimate, or as small a part of it, is more often a slip than a price."""


class Doubt(NamedTuple):
    """About the row on `line`."""

    line: int
    text: str


def doubts(table: PriceTable, estimates: PriceTable, now_unix_ns: int) -> list[Doubt]:
    """Everything that is doubtful now, by line. `estimates` says what prices are like."""
    found = [
        Doubt(rate.line, text)
        for rate in table.rates
        for text in (*_of_name(rate), *_of_price(rate, estimates))
    ]
    return sorted([*found, *_of_dates(table, now_unix_ns), *_of_times(table, now_unix_ns)])


def _of_dates(table: PriceTable, now_unix_ns: int) -> Iterator[Doubt]:
    """Prices whose date is old or still to come: one doubt for all of one source and date."""
    by_date: dict[tuple[date, str], list[Rate]] = {}
    for rate in table.rates:
        is_over = rate.valid_to_ns is not None and rate.valid_to_ns <= now_unix_ns
        if not is_over:
            by_date.setdefault((rate.as_of, rate.source), []).append(rate)
    for (as_of, source), rates in by_date.items():
        age_days = rates[0].age_days(now_unix_ns)
        what = f"{len(rates)} prices of {source!r}" if len(rates) > 1 else "the price"
        are = "are" if len(rates) > 1 else "is"
        line = min(rate.line for rate in rates)
        if age_days < 0:
            yield Doubt(
                line, f"as_of {as_of} of {what} is in the future: when was it known to be right?"
            )
        elif age_days > OLD_PRICE_DAYS:
            yield Doubt(line, f"{what} {are} {age_days} days old (as of {as_of}): look it up again")


def _of_name(rate: Rate) -> Iterator[str]:
    if nvml_name(rate.device_name) is None:
        close = similar_names(rate.device_name)
        hint = f"did you mean {' or '.join(close)}?" if close else "`apportion doctor` shows yours"
        yield f"{rate.device_name!r} is no device name known here; {hint}"


def _of_price(rate: Rate, estimates: PriceTable) -> Iterator[str]:
    if not rate.units_per_hour:
        yield "the price is 0: where it is not known, leave the row out"
        return
    if rate.currency != estimates.currency:
        return
    for estimate in estimates.rates_of(rate.device_name):
        times = rate.units_per_hour / estimate.units_per_hour
        told = f"the built-in estimate of {estimate.per_hour} {estimate.currency}"
        if times >= ABSURD_TIMES:
            yield (
                f"{rate.per_hour} is {_rounded(times)} times {told}: is it for several devices? "
                "then say `unit: instance` and `devices`"
            )
        elif times <= Fraction(1, ABSURD_TIMES):
            yield (
                f"{rate.per_hour} is {_rounded(1 / times)} times less than {told}: is it for an "
                "hour, and for a whole device?"
            )


def _of_times(table: PriceTable, now_unix_ns: int) -> Iterator[Doubt]:
    """Times that no row of a device and match covers: between two of them, and now."""
    by_place: dict[tuple[str, object], list[Rate]] = {}
    for rate in table.rates:
        by_place.setdefault((rate.device_name, rate.match), []).append(rate)
    for (device, _), rates in by_place.items():
        ordered = sorted(rates, key=_begin)
        for earlier, later in pairwise(ordered):
            end_ns, start_ns = earlier.valid_to_ns, later.valid_from_ns
            if end_ns is not None and start_ns is not None and end_ns < start_ns:
                yield Doubt(
                    later.line,
                    f"{device} has no price from {instant_text(end_ns)} to "
                    f"{instant_text(start_ns)}",
                )
        first, last = ordered[0], ordered[-1]
        if last.valid_to_ns is not None and last.valid_to_ns <= now_unix_ns:
            yield Doubt(last.line, f"{device} has no price since {instant_text(last.valid_to_ns)}")
        if first.valid_from_ns is not None and first.valid_from_ns > now_unix_ns:
            yield Doubt(
                first.line, f"{device} has no price before {instant_text(first.valid_from_ns)}"
            )


def _begin(rate: Rate) -> tuple[bool, int]:
    """For sorting: an open begin is before all others."""
    return (rate.valid_from_ns is not None, rate.valid_from_ns or 0)


def _rounded(times: Fraction) -> str:
    return f"{round(times):,}"
