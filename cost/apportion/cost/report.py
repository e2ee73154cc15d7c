"""What was spent, on what and for whom: a ledger's figures over whole hours.

`report` asks the ledger; `report_text`, `report_json` and `report_csv` show the outcome. Cost in
it is metered (quantity x rate), never billed. What is not posted yet is included and named open.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError
from apportion.cost.disowned import Disowned
from apportion.cost.period import Period, WallTime
from apportion.cost.quantity import Quantity
from apportion.cost.report_devices import device_rows, metered
from apportion.cost.report_dimensions import Names
from apportion.cost.report_figures import Figures
from apportion.cost.report_owners import left_out, metered_twice
from apportion.cost.report_prices import Prices
from apportion.cost.report_rows import LoadedCost, Proof, Report
from apportion.cost.report_scope import Scope
from apportion.cost.report_warnings import (
    as_of_warnings,
    price_warnings,
    record_warnings,
    unpriced_warnings,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from sqlalchemy import Connection

    from apportion.cost.ledger.reader import LedgerReader
    from apportion.cost.loaded_cost import Loading
    from apportion.cost.report_rows import DeviceRow

DEFAULT_BY: Final = ("workload", "tenant", "model")


def report(
    ledger: LedgerReader,
    start_unix_ns: int | None = None,
    end_unix_ns: int | None = None,
    by: Sequence[str] = DEFAULT_BY,
    *,
    as_of_unix_ns: int | None = None,
    top: int | None = None,
    loading: Loading | None = None,
) -> Report:
    """What `ledger` says about [start, end), widened to whole hours; None is open.

    Spans count in the hour in which they end. `by` names dimensions of `report_dimensions`; with
    `top` so many rows are shown, those that cost most, and the others in one. `as_of_unix_ns`
    leaves out what was posted later, and hours that were not over by then: of complete hours it
    says what a report said at that instant. With `loading` rows have their loaded cost, too.

    Raises:
        LedgerError: an unknown dimension, several currencies, a device that is in two of several
            ledgers, a past that is kept no longer, or the ledger cannot be read.
    """
    with _no_collections(), ledger.read() as connection:
        wall = WallTime.load(connection)
        period = Period.around(start_unix_ns, end_unix_ns, wall, Disowned.load(connection))
        if as_of_unix_ns is not None:
            period = period.over_by(as_of_unix_ns)
        scope = Scope.of(connection, period, as_of_unix_ns)
        names = Names(connection, wall)
        figures = Figures(connection, scope, by, names, top=top)
        meters = metered(connection, scope)
        times = ((row.agent_id, row.rate, row.amount.device_ns) for row in meters)
        prices = Prices(connection, scope, times)
        settles = as_of_unix_ns is None
        devices = device_rows(connection, scope, meters, prices, settles=settles)
        loaded = None if loading is None else figures.loaded(loading)
        owners = _owners(connection, scope, as_of_unix_ns, several=ledger.several)
    currencies = sorted({row.currency for row in (*prices.in_force, *prices.replaced)})
    if len(currencies) > 1:
        message = (
            f"ledger {ledger.name} has prices in {', '.join(currencies)}, which cannot be added: "
            "report on each agent's ledger"
        )
        raise LedgerError(message)
    proof = _proof(devices, figures, as_it_was=not settles)
    now_ns = ledger.clock.realtime_ns() if as_of_unix_ns is None else as_of_unix_ns
    settled = [row.settled_until_unix_ns for row in devices]
    known = [instant for instant in settled if instant is not None]
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
        None if loading is None or loaded is None else LoadedCost(loading.value, *loaded),
        figures.phases,
        figures.categories,
        devices,
        prices.in_force,
        prices.replaced,
        proof,
        (
            *names.hints,
            *owners,
            *(() if settles else as_of_warnings(proof)),
            *unpriced_warnings(devices),
            *price_warnings(prices.in_force, now_ns),
            *record_warnings(figures.rows, figures.uncharged_spans),
        ),
    )


@contextmanager
def _no_collections() -> Generator[None]:
    """Without the garbage collector.

    A large report makes some 100,000 objects, and all of them stay: to look through them again
    and again for cycles takes as long as everything else. At the end they are old at once, by way
    of the frozen ones, or the first collection would look through them after all.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _owners(
    connection: Connection, scope: Scope, as_of_unix_ns: int | None, *, several: bool
) -> list[str]:
    """What to say of devices that several agents metered.

    Raises:
        LedgerError: two of `several` ledgers metered one at once: its cost cannot be added.
    """
    period = scope.period
    warnings: list[str] = []
    if period.disowned.hours:
        whole = Scope.of(connection, period.with_disowned(), as_of_unix_ns)
        warnings += left_out(connection, period, whole)
    for twice in metered_twice(connection, scope):
        if several:
            message = (
                f"{twice} at the same time: of ledgers that do not know of one another, its cost "
                "would be added twice; leave one of them out, or report on other hours"
            )
            raise LedgerError(message)
        warnings.append(f"{twice}: its cost is in here twice")
    return warnings


def _proof(devices: Sequence[DeviceRow], figures: Figures, *, as_it_was: bool) -> Proof:
    metered_in_all = sum((row.metered for row in devices), Quantity())
    posted = sum((row.posted for row in figures.categories), Quantity())
    still_open = sum((row.open for row in figures.categories), Quantity())
    if as_it_was:
        # Running sums of the past are not kept: what was not posted then is what is missing.
        still_open = metered_in_all + -posted
        if still_open.same_amounts(Quantity()):
            still_open = Quantity()
    return Proof(
        metered_in_all,
        sum((row.sum_of_parts for row in devices), Quantity()),
        posted,
        still_open,
        sum((row.moved for row in figures.categories), Quantity()),
        sum((row.adjusted for row in figures.categories), Quantity()),
        sum((row.repriced for row in devices), Quantity()),
    )
