"""Prices applied to settled time: exact for each device, fair to who has it, once and not twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.world import rate
from tests.cost.repricing.books import (
    A100,
    H100,
    HOUR,
    BookPlan,
    Moved,
    built,
    costs,
    metered,
    move,
    moves,
    plans,
    prices,
    rows,
    tables,
)

from apportion.cost.audit import audit, audit_text
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.rate import PriceTable
from apportion.cost.repricing.apply import apply_prices
from apportion.cost.repricing.proposal import Proposal

ADJUSTMENT = 3


def applied(ledger: Ledger, table: PriceTable) -> Proposal:
    """Apply a table to everything."""
    return apply_prices(ledger, "node-1", table, None, None)


def clean(ledger: Ledger) -> None:
    """The audit finds nothing."""
    result = audit(ledger)
    assert result.holds, audit_text(result)


@settings(max_examples=settings().max_examples // 4)
@given(plan=plans, asked=st.lists(tables(), min_size=1, max_size=3))
def test_each_device_costs_what_the_table_says(plan: BookPlan, asked: Sequence[PriceTable]) -> None:
    """Metered + repriced is what the last price of each instant makes of it, to the unit."""
    with built(plan) as ledger:
        clean(ledger)
        for count, table in enumerate(asked, 1):
            proposal = applied(ledger, table)
            clean(ledger)
            assert metered(ledger) == costs(ledger, asked[:count])
            again = applied(ledger, table)
            assert (again.lines, again.batch.inserted, again.changes) == (0, {}, ())
            assert proposal.skipped == again.skipped


def adjusted(ledger: Ledger) -> dict[tuple[object, ...], tuple[int, int]]:
    """What was adjusted so far, by hour, change of rate and who it is about, all by names."""
    entities = {row["entity_key"]: row["workload"] for row in rows(ledger, "entity")}
    rates = {row["rate_key"]: row for row in rows(ledger, "rate")}
    found: dict[tuple[object, ...], tuple[int, int]] = {}
    for row in rows(ledger, "charge"):
        if row["kind"] == ADJUSTMENT:
            change = [
                rates[key]["numerator"] if key else None
                for key in (row["from_rate_key"], row["rate_key"])
            ]
            who = (row["group_key"], row["category"], row["phase"], row["ring_key"] is None)
            key = (row["start_ns"] // HOUR, *change, *who, entities.get(row["entity_key"]))
            units, priced_ns = found.get(key, (0, 0))
            found[key] = units + row["units"], priced_ns + (row["priced_ns"] or 0)
    return {key: amounts for key, amounts in found.items() if any(amounts)}


@settings(max_examples=settings().max_examples // 5)
@given(plan=plans, table=tables(), later=st.lists(moves, max_size=3))
def test_what_moves_later_is_evened_out(
    plan: BookPlan, table: PriceTable, later: Sequence[Moved]
) -> None:
    """Prices before moves, and again after them, leave what prices after moves alone leave."""
    with built(plan) as before, built(plan) as after:
        applied(before, table)
        for moved in later:
            move(before, plan, moved)
            move(after, plan, moved)
        clean(before)
        applied(before, table)
        applied(after, table)
        clean(before)
        assert adjusted(before) == adjusted(after)
        assert metered(before) == metered(after)


@settings(max_examples=settings().max_examples // 6)
@given(plan=plans, table=tables(), data=st.data())
def test_order_and_keys_do_not_matter(
    plan: BookPlan, table: PriceTable, data: st.DataObject
) -> None:
    """Whoever came first and has which key: each gets the same, to the unit."""
    order = data.draw(st.permutations(plan.order))
    with built(plan) as one, built(replace(plan, order=tuple(order))) as other:
        applied(one, table)
        applied(other, table)
        assert adjusted(one) == adjusted(other)


@settings(max_examples=settings().max_examples // 6)
@given(plan=plans, price=prices)
def test_like_metered_so_from_the_start(plan: BookPlan, price: Fraction) -> None:
    """Everybody has what the price would have given them at first, to a unit for each line."""
    table = PriceTable((rate(price, H100), rate(price, A100)))
    rated = tuple(piece._replace(rates=(1, 3)) for piece in plan.pieces)
    metered_so = replace(plan, pieces=rated, metered=(price, price, price))
    with built(plan) as ledger, built(metered_so) as oracle:
        applied(ledger, table)
        applied(oracle, table)
        totals, wanted = by_holder(ledger), by_holder(oracle)
        assert totals.keys() == wanted.keys()
        for holder, (units, count) in totals.items():
            assert abs(units - wanted[holder][0]) <= count + wanted[holder][1], holder


def by_holder(ledger: Ledger) -> dict[tuple[object, ...], tuple[int, int]]:
    """Units of everybody, and how many lines they have."""
    found: dict[tuple[object, ...], tuple[int, int]] = {}
    for row in rows(ledger, "charge"):
        who = (row["group_key"], row["category"], row["phase"], row["entity_key"], row["ring_key"])
        units, count = found.get(who, (0, 0))
        found[who] = units + (row["units"] or 0), count + 1
    return found


@settings(max_examples=settings().max_examples // 6)
@given(plan=plans, table=tables())
def test_energy_and_time_stay(plan: BookPlan, table: PriceTable) -> None:
    """A price changes money and nothing else; what has a price now is told by the nanosecond."""
    with built(plan) as ledger:
        before = rows(ledger, "charge")
        applied(ledger, table)
        lines = [row for row in rows(ledger, "charge") if row["kind"] == ADJUSTMENT]
        assert [row for row in rows(ledger, "charge") if row["kind"] != ADJUSTMENT] == before
        assert all((row["device_ns"], row["energy_mj"]) == (0, None) for row in lines)
        repriced = [row for row in rows(ledger, "repricing") if row["from_rate_key"] is None]
        assert all(row["units"] is not None for row in lines)
        hours = {row["start_ns"] // HOUR for row in repriced}
        for hour in hours:
            priced_ns = sum(
                row["priced_ns"] or 0 for row in lines if row["start_ns"] // HOUR == hour
            )
            wanted_ns = sum(
                row["end_ns"] - row["start_ns"]
                for row in repriced
                if row["start_ns"] // HOUR == hour
            )
            count = sum(row["start_ns"] // HOUR == hour for row in lines)
            assert wanted_ns - 5 * count <= priced_ns <= wanted_ns
