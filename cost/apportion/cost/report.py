"""What was spent, on what and for whom: a ledger's figures over whole hours.

`report` asks the ledger; `report_text`, `report_json` and `report_csv` show the outcome. Cost in
it is metered (quantity x rate), never billed. What is not posted yet is included and named open.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from apportion.core.category import Category
from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_SECOND
from apportion.cost import report_query as query
from apportion.cost.ledger.rows import rows
from apportion.cost.period import Period, WallTime
from apportion.cost.quantity import Quantity, summed
from apportion.cost.report_dimensions import Names
from apportion.cost.report_figures import Figures
from apportion.cost.report_owners import overlaps
from apportion.cost.report_rows import DeviceRow, EntityRow, Proof, RateRow, Report
from apportion.cost.report_scope import Scope
from apportion.cost.rollups.sources import GRAINS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy import Connection

    from apportion.cost.ledger.reader import LedgerReader

DEFAULT_BY: Final = ("workload", "tenant", "model")
OLD_PRICE_DAYS: Final = 90


def report(
    ledger: LedgerReader,
    start_unix_ns: int | None = None,
    end_unix_ns: int | None = None,
    by: Sequence[str] = DEFAULT_BY,
    *,
    as_of_unix_ns: int | None = None,
    top: int | None = None,
) -> Report:
    """What `ledger` says about [start, end), widened to whole hours; None is open.

    Spans count in the hour in which they end. `by` names dimensions of `report_dimensions`; with
    `top` so many rows are shown, those that cost most, and the others in one. `as_of_unix_ns`
    leaves out what was posted later, and hours that were not over by then: of complete hours it
    says what a report said at that instant.

    Raises:
        LedgerError: an unknown dimension, several currencies, a past that is kept no longer, or
            the ledger cannot be read.
    """
    with ledger.read() as connection:
        wall = WallTime.load(connection)
        period = Period.around(start_unix_ns, end_unix_ns, wall)
        if as_of_unix_ns is None:
            scope = Scope.now(connection, period)
        else:
            period = period.over_by(as_of_unix_ns)
            scope = Scope.then(connection, period, as_of_unix_ns)
        figures = Figures(connection, scope, by, Names(connection, wall), top=top)
        meters = [
            (row[:4], summed(*row[4:]))
            for source in scope.meters(GRAINS)
            for row in rows(connection, query.quantities(source, _METER))
        ]
        devices = _devices(connection, scope, wall, meters, settles=as_of_unix_ns is None)
        twice = overlaps(connection, period)
        rates = _rates(connection, {(place[0], place[2]) for place, _ in meters})
    if twice and ledger.several:
        message = (
            f"{twice[0]}: of ledgers that do not know of one another, its cost would be added "
            "twice; leave one of them out, or report on other hours"
        )
        raise LedgerError(message)
    currencies = sorted({row.currency for row in rates})
    if len(currencies) > 1:
        message = (
            f"ledger {ledger.name} has prices in {', '.join(currencies)}, which cannot be added: "
            "report on each agent's ledger"
        )
        raise LedgerError(message)
    now_ns = ledger.clock.realtime_ns() if as_of_unix_ns is None else as_of_unix_ns
    settled = [row.settled_until_unix_ns for row in devices]
    known = [instant for instant in settled if instant is not None]
    proof = _proof(devices, figures, as_it_was=as_of_unix_ns is not None)
    return Report(
        ledger.name,
        tuple(by),
        figures.phases_by,
        as_of_unix_ns,
        currencies[0] if currencies else None,
        period.start_unix_ns,
        period.end_unix_ns,
        min(known) if known else None,
        any(row.simulated for row in devices),
        figures.rows,
        figures.phases,
        figures.categories,
        devices,
        rates,
        proof,
        (
            *_as_of_warnings(proof, as_of_unix_ns),
            *(f"{text}: its cost is in here twice" for text in twice),
            *_device_warnings(devices),
            *_price_warnings(rates, _date(now_ns)),
            *_record_warnings(figures.rows, figures.uncharged_spans),
        ),
    )


def _proof(devices: Sequence[DeviceRow], figures: Figures, *, as_it_was: bool) -> Proof:
    metered = sum((row.metered for row in devices), Quantity())
    posted = sum((row.posted for row in figures.categories), Quantity())
    still_open = sum((row.open for row in figures.categories), Quantity())
    if as_it_was:
        # Running sums of the past are not kept: what was not posted then is what is missing.
        still_open = metered - posted
        if still_open.same_amounts(Quantity()):
            still_open = Quantity()
    return Proof(
        metered,
        sum((row.sum_of_parts for row in devices), Quantity()),
        posted,
        still_open,
        sum((row.moved for row in figures.categories), Quantity()),
        sum((row.adjusted for row in figures.categories), Quantity()),
    )


_METER: Final = ("agent_id", "device_key", "rate_key", "energy_source")
_PART: Final = ("agent_id", "device_key", "category")


def _devices(
    connection: Connection,
    scope: Scope,
    wall: WallTime,
    metered: Sequence[tuple[tuple[Any, ...], Quantity]],
    *,
    settles: bool,
) -> tuple[DeviceRow, ...]:
    """Devices that were metered in the period. `settles`: it is known how far they are settled."""
    meters: dict[tuple[int, int], Quantity] = {}
    sources: dict[tuple[int, int], set[str]] = {}
    for (agent_id, key, _, energy_source), amount in metered:
        place = agent_id, key
        meters[place] = meters.get(place, Quantity()) + amount
        sources.setdefault(place, set()).update({energy_source} if energy_source else set())
    parts: dict[tuple[int, int], dict[Category, Quantity]] = {}
    for source in scope.parts(GRAINS):
        for row in rows(connection, query.quantities(source, _PART)):
            of_device, category = parts.setdefault((row[0], row[1]), {}), Category(row[2])
            amount = summed(*row[3:])
            of_device[category] = of_device.get(category, Quantity()) + amount
    found: list[DeviceRow] = []
    for row in rows(connection, query.devices()):
        agent_id, key, node, device, name, simulated, _, settled_ns = row
        if (agent_id, key) not in meters:
            continue
        known = settles and settled_ns is not None
        found.append(
            DeviceRow(
                node,
                device,
                name,
                bool(simulated),
                wall.unix(agent_id, settled_ns) if known else None,
                tuple(sorted(sources[agent_id, key])),
                meters[agent_id, key],
                dict(sorted(parts.get((agent_id, key), {}).items())),
            )
        )
    return tuple(sorted(found, key=lambda row: (row.node, row.device)))


def _rates(connection: Connection, used: Collection[tuple[int, int]]) -> tuple[RateRow, ...]:
    """The rates that the period was metered at, by agent and key."""
    rates = {
        RateRow(*row[2:]) for row in rows(connection, query.rates()) if (row[0], row[1]) in used
    }
    return tuple(sorted(rates, key=lambda row: (row.device_name, row.as_of, row.per_hour)))


def _as_of_warnings(proof: Proof, as_of_unix_ns: int | None) -> Iterable[str]:
    if as_of_unix_ns is not None and proof.open != Quantity():
        seconds = proof.open.device_ns / NS_PER_SECOND
        yield (
            f"{seconds:.1f} device-seconds of these hours had no line yet at that time: what a "
            "report said of them then, as not posted yet, is not known any more"
        )


def _device_warnings(devices: Sequence[DeviceRow]) -> Iterable[str]:
    for row in devices:
        if row.metered.unpriced_ns:
            seconds = row.metered.unpriced_ns / NS_PER_SECOND
            yield (
                f"no price for {row.name} ({row.device}): {seconds:.1f} device-seconds have "
                "quantities and no amount; add it to the price table"
            )


def _price_warnings(rates: Sequence[RateRow], today: date) -> Iterable[str]:
    for row in rates:
        price = f"the price of {row.device_name}, {row.per_hour} {row.currency} per hour"
        if row.basis == "list-estimate":
            yield f"{price}, is an estimate (source: {row.source})"
        try:
            age_days = (today - date.fromisoformat(row.as_of)).days
        except ValueError:
            yield f"{price}, has no readable date ({row.as_of!r}): its age is unknown"
            continue
        if age_days > OLD_PRICE_DAYS:
            yield f"{price}, is {age_days} days old (as of {row.as_of}): check it"


def _record_warnings(rows: Sequence[EntityRow], unknown_spans: int) -> Iterable[str]:
    if any(row.incomplete_units is not None for row in rows):
        yield "sums marked ~ are incomplete: records were lost in a part of their time"
    if unknown_spans:
        yield f"{unknown_spans} spans have no cost: it is not known which device they ran on"


def _date(unix_ns: int) -> date:
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (epoch + timedelta(seconds=unix_ns // NS_PER_SECOND)).date()
