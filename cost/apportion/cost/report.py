"""What was spent, on what and for whom: a ledger's figures over whole hours.

`report` asks the ledger; `report_text`, `report_json` and `report_csv` show the outcome. Cost in
it is metered (quantity x rate), never billed. What is not posted yet is included and named open.
"""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from apportion.core.category import Category
from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_SECOND
from apportion.cost import report_query as query
from apportion.cost import span_query
from apportion.cost.disowned import Disowned, left_out, metered_twice
from apportion.cost.idle_power import IdleState
from apportion.cost.ledger.rows import rows
from apportion.cost.loaded_cost import Loaded, Loading, WorkloadCost, loaded_cost
from apportion.cost.period import Period, WallTime
from apportion.cost.price_row import ESTIMATE, OLD_PRICE_DAYS
from apportion.cost.quantity import Quantity
from apportion.cost.report_figures import Figures
from apportion.cost.report_prices import Prices
from apportion.cost.report_rows import (
    DeviceRow,
    EntityRow,
    LoadedCost,
    Proof,
    RateRow,
    Report,
    one_row_a_device,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from apportion.cost.ledger.reader import LedgerReader

DEFAULT_BY: Final = ("workload", "tenant", "model")


def report(
    ledger: LedgerReader,
    start_unix_ns: int | None = None,
    end_unix_ns: int | None = None,
    by: Sequence[str] = DEFAULT_BY,
    *,
    loading: Loading | None = None,
) -> Report:
    """What `ledger` says about [start, end), widened to whole hours; None is open.

    Spans count in the hour in which they end. `by` names dimensions of `report_query`. With
    `loading` rows have their loaded cost, too.

    Raises:
        LedgerError: an unknown dimension, several currencies, or the ledger cannot be read.
    """
    for name in by:
        if name not in query.DIMENSIONS:
            message = f"cannot report by {name!r}: choose from {', '.join(query.DIMENSIONS)}"
            raise LedgerError(message)
    with ledger.read() as connection:
        wall = WallTime.load(connection)
        period = Period.around(start_unix_ns, end_unix_ns, wall, Disowned.load(connection))
        figures = Figures(connection, period, tuple(by))
        meters = rows(connection, query.metered(period))
        prices = Prices(connection, period, ((row[0], row[2], row[4]) for row in meters))
        devices = _devices(connection, period, meters, prices)
        loaded = None if loading is None else _loaded(connection, period, by, loading)
        ((unknown_spans,),) = rows(connection, span_query.without_cost(period))
        owners = [*left_out(connection, period), *metered_twice(connection, period)]
    currencies = sorted({row.currency for row in (*prices.in_force, *prices.replaced)})
    if len(currencies) > 1:
        message = (
            f"ledger {ledger.name} has prices in {', '.join(currencies)}, which cannot be added: "
            "report on each agent's ledger"
        )
        raise LedgerError(message)
    proof = Proof(
        sum((row.metered for row in devices), Quantity()),
        sum((row.sum_of_parts for row in devices), Quantity()),
        sum((row.posted for row in figures.categories), Quantity()),
        sum((row.open for row in figures.categories), Quantity()),
        sum((row.moved for row in figures.categories), Quantity()),
        sum((row.adjusted for row in figures.categories), Quantity()),
        sum((row.repriced for row in devices), Quantity()),
    )
    today = _date(ledger.clock.realtime_ns())
    settled = [row.settled_until_unix_ns for row in devices]
    known = [instant for instant in settled if instant is not None]
    return Report(
        ledger.name,
        tuple(by),
        currencies[0] if currencies else None,
        period.start_unix_ns,
        period.end_unix_ns,
        min(known) if known else None,
        any(row.simulated for row in devices),
        figures.rows,
        None if loading is None or loaded is None else LoadedCost(loading.value, *loaded),
        figures.phases,
        figures.categories,
        devices,
        prices.in_force,
        prices.replaced,
        proof,
        (
            *owners,
            *_unpriced_warnings(devices),
            *_price_warnings(prices.in_force, today),
            *_record_warnings(figures.rows, unknown_spans),
        ),
    )


def _loaded(connection: Connection, period: Period, by: Sequence[str], loading: Loading) -> Loaded:
    names = tuple(dict.fromkeys(("workload", *by)))
    found = rows(connection, query.cost_by(period, names))
    places = [names.index(name) for name in by]
    width = len(names)
    costs = (
        WorkloadCost(
            row[0], tuple(row[place] for place in places), Category(row[width]), row[width + 5]
        )
        for row in found
    )
    return loaded_cost(costs, loading)


def _devices(
    connection: Connection, period: Period, metered: Sequence[tuple[Any, ...]], prices: Prices
) -> tuple[DeviceRow, ...]:
    """Devices that were metered in the period."""
    meters: dict[tuple[int, int], Quantity] = {}
    sources: dict[tuple[int, int], set[str]] = {}
    by_weights: Counter[tuple[int, int]] = Counter()
    for row in metered:
        place = row[0], row[1]
        meters[place] = meters.get(place, Quantity()) + Quantity.of(*row[4:9])
        sources.setdefault(place, set()).update({row[3]} if row[3] else set())
        by_weights[place] += row[9] or 0
    idle: dict[tuple[int, int], dict[str, int]] = {}
    for agent_id, key, state, power_mw in rows(connection, query.idle_powers()):
        idle.setdefault((agent_id, key), {})[IdleState(state).label] = power_mw
    parts: dict[tuple[int, int], dict[Category, Quantity]] = {}
    for row in rows(connection, query.parts(period)):
        parts.setdefault((row[0], row[1]), {})[Category(row[2])] = Quantity.of(*row[3:])
    found: list[tuple[int, DeviceRow]] = []
    for row in rows(connection, query.devices()):
        agent_id, key, node, device, name, simulated, settled_ns = row
        if (agent_id, key) not in meters:
            continue
        of_spell = DeviceRow(
            node,
            device,
            name,
            bool(simulated),
            None if settled_ns is None else period.wall.unix(agent_id, settled_ns),
            tuple(sorted(sources[agent_id, key])),
            meters[agent_id, key],
            prices.changed(agent_id, key),
            dict(sorted(parts.get((agent_id, key), {}).items())),
            by_weights[agent_id, key],
            idle.get((agent_id, key), {}),
        )
        found.append((agent_id, of_spell))
    return one_row_a_device(found)


def _unpriced_warnings(devices: Sequence[DeviceRow]) -> Iterable[str]:
    for row in devices:
        unpriced_ns = row.metered.unpriced_ns + row.repriced.unpriced_ns
        if unpriced_ns:
            seconds = unpriced_ns / NS_PER_SECOND
            yield (
                f"no price for {row.name} ({row.device}): {seconds:.1f} device-seconds have "
                "quantities and no amount; add it to the price table"
            )


def _price_warnings(rates: Sequence[RateRow], today: date) -> Iterable[str]:
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


def _record_warnings(rows: Sequence[EntityRow], unknown_spans: int) -> Iterable[str]:
    if any(row.incomplete_units is not None for row in rows):
        yield "sums marked ~ are incomplete: records were lost in a part of their time"
    if unknown_spans:
        yield f"{unknown_spans} spans have no cost: it is not known which device they ran on"


def _date(unix_ns: int) -> date:
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (epoch + timedelta(seconds=unix_ns // NS_PER_SECOND)).date()
