"""Small random ledgers to re-price, and what their devices should cost by a price table."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from hypothesis import strategies as st
from tests.agent.pipeline.world import rate

from apportion.core.category import Category, Phase
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.tables import metadata
from apportion.cost.price_row import Rate
from apportion.cost.rate import PriceTable
from apportion.cost.testing import Claim, LedgerBuilder, memory_ledger

S = NS_PER_SECOND
HOUR = NS_PER_HOUR
T0 = 472_222 * HOUR
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
NAMES = {1: H100, 2: H100, 3: A100}
PAIR, MIXED = 11, 12
GROUPS = {1: (1,), 2: (2,), 3: (3,), PAIR: (1, 2), MIXED: (2, 3)}


class Piece(NamedTuple):
    """What all devices do for a while: who has the pair, or the mixed group, or each device."""

    length_ns: int
    group: int | None
    weights: tuple[int, int]
    phased: bool
    rates: tuple[int | None, int | None]
    """Of an H100 and of an A100."""


class Moved(NamedTuple):
    """Of the span of one piece, this part went to nobody's idle time."""

    piece: int
    part: Fraction


@dataclass(frozen=True)
class BookPlan:
    """Everything that a random book is made of."""

    pieces: tuple[Piece, ...]
    moves: tuple[Moved, ...]
    metered: tuple[Fraction, Fraction, Fraction]
    order: tuple[int, ...]
    """How entities and rings are numbered."""
    power_mw: int | None


prices = st.fractions(0, 10**13, max_denominator=10**4)
pieces = st.builds(
    Piece,
    st.integers(1, 2 * HOUR),
    st.sampled_from([None, PAIR, MIXED]),
    st.tuples(st.integers(0, 3), st.integers(1, 3)),
    st.booleans(),
    st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from([None, 3])),
)
moves = st.builds(Moved, st.integers(0, 5), st.fractions(0, 1, max_denominator=100))
plans = st.builds(
    BookPlan,
    st.lists(pieces, min_size=1, max_size=6).map(tuple),
    st.lists(moves, max_size=3).map(tuple),
    st.tuples(prices, prices, prices),
    st.permutations(range(1, 13)).map(tuple),
    st.none() | st.integers(0, 700_000),
)


def built(plan: BookPlan) -> Ledger:
    """The book in memory: its last hour is not over, everything before is posted."""
    builder = LedgerBuilder()
    for key, name in NAMES.items():
        builder.device(key, f"GPU-{key}", name)
    builder.group(PAIR, GROUPS[PAIR])
    builder.group(MIXED, GROUPS[MIXED])
    for key, (units, name) in enumerate(zip(plan.metered, (H100, H100, A100), strict=True), 1):
        builder.rate(key, units, name=name)
    for number, key in enumerate(plan.order):
        builder.entity(key, f"workload-{number}")
        builder.ring(key, number=number)
    start_ns = T0
    for number, piece in enumerate(plan.pieces):
        interval = Interval(start_ns, start_ns + piece.length_ns)
        _settle(builder, plan, number, piece, interval)
        start_ns = interval.end_ns
    end_ns = (start_ns // HOUR + 1) * HOUR + 5 * S
    for device in NAMES:
        idle = Claim(Category.UNALLOCATED, device)
        builder.settle(device, Interval(start_ns, end_ns), [idle], power_mw=plan.power_mw)
    ledger = empty_ledger()
    builder.commit(ledger)
    for moved in plan.moves:
        move(ledger, plan, moved)
    return ledger


@cache
def _template() -> bytes:
    """A ledger without rows: migrating each example's anew would take most of the time."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        memory_ledger(path).close()
        return path.read_bytes()


def empty_ledger() -> Ledger:
    """A ledger of its own in a file that is gone when it is closed."""
    folder = TemporaryDirectory()
    path = Path(folder.name) / "ledger.db"
    path.write_bytes(_template())
    ledger = memory_ledger(path)
    weakref.finalize(ledger, folder.cleanup)
    return ledger


def span_of(plan: BookPlan, number: int) -> Claim:
    """Who has the group of a piece."""
    piece, key = plan.pieces[number], plan.order[2 * number]
    phases = ((Phase.PREFILL, 1), (Phase.DECODE, 2)) if piece.phased else ((Phase.NONE, 1),)
    group = piece.group or 1
    return Claim(Category.DIRECT, group, key, key, 1, piece.weights[0], phases)


def _settle(
    builder: LedgerBuilder, plan: BookPlan, number: int, piece: Piece, interval: Interval
) -> None:
    span = span_of(plan, number)
    if span.weight:
        builder.span(span.ring, 1, interval, entity=span.entity)
    for device, name in NAMES.items():
        key = piece.rates[name == A100]
        workload = plan.order[2 * number + 1]
        claims = [Claim(Category.ALLOCATED_IDLE, device, workload, weight=piece.weights[1])]
        if span.weight and device in GROUPS[span.group]:
            claims.append(span)
        builder.settle(device, interval, claims, rate=key, power_mw=plan.power_mw)


def move(ledger: Ledger, plan: BookPlan, moved: Moved) -> None:
    """Post reallocations of a part of what one span has left to nobody, as an agent would."""
    span = span_of(plan, moved.piece % len(plan.pieces))
    lines = rows(ledger, "charge")
    left: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for row in lines:
        if row["ring_key"] == span.ring and row["kind"] != ChargeKind.ADJUSTMENT:
            place = tuple(row[name] for name in ("group_key", "phase", "rate_key", *_PERIOD))
            pairs = zip(left.get(place, (0, 0, 0)), (row[name] for name in _AMOUNTS), strict=True)
            left[place] = tuple(known + (added or 0) for known, added in pairs)
    builder = LedgerBuilder()
    builder._next_charge = max(row["charge_key"] for row in lines) + 1
    builder.batch.inserted.clear()
    for (group, phase, rate_key, start_ns, end_ns), amounts in left.items():
        device_ns, energy_mj, units = (int(amount * moved.part) for amount in amounts)
        builder.move(
            Interval(start_ns, end_ns),
            span._replace(group=group, phases=((Phase(phase or 0), 1),)),
            Claim(Category.UNALLOCATED, group),
            (device_ns, energy_mj or None, None if rate_key is None else units),
            rate=rate_key,
        )
    batch = builder.finished()
    batch.replaced.clear()
    ledger.commit(batch)


_PERIOD = ("start_ns", "end_ns")
_AMOUNTS = ("device_ns", "energy_mj", "units")


@st.composite
def tables(draw: st.DrawFn) -> PriceTable:
    """Prices of the H100 that change now and then, with gaps; of the A100 one, or none."""
    edges = sorted(draw(st.sets(st.integers(T0 - HOUR, T0 + 12 * HOUR), max_size=4)))
    spans = list(zip([None, *edges], [*edges, None], strict=True))
    found: list[Rate] = [
        rate(draw(prices), H100, valid_from_ns=start, valid_to_ns=end)
        for start, end in spans
        if draw(st.integers(0, 4))
    ]
    if draw(st.booleans()):
        found.append(rate(draw(prices), A100))
    return PriceTable(tuple(found))


def rows(ledger: Ledger, table: str) -> list[dict[str, Any]]:
    """All rows of a table of the ledger."""
    with ledger.read() as connection:
        found = connection.execute(metadata.tables[table].select())
        return [dict(row._mapping) for row in found]


def metered(ledger: Ledger) -> dict[tuple[int, int], int]:
    """By device and hour what settlements and repricings say together."""
    found: dict[tuple[int, int], int] = {}
    for name in ("settlement", "repricing"):
        for row in rows(ledger, name):
            place = row["device_key"], row["start_ns"] // HOUR * HOUR
            found[place] = found.get(place, 0) + (row["units"] or 0)
    return found


def costs(ledger: Ledger, applied: Sequence[PriceTable]) -> dict[tuple[int, int], int]:
    """The same from the settlements' times alone: metered, then the last table with a price."""
    last_ns = max(row["end_ns"] for row in rows(ledger, "settlement")) // HOUR * HOUR
    known = {row["rate_key"]: row for row in rows(ledger, "rate")}
    found: dict[tuple[int, int], int] = {}
    for row in rows(ledger, "settlement"):
        hour_ns = row["start_ns"] // HOUR * HOUR
        name = NAMES[row["device_key"]]
        tables = [table.rates_of(name) for table in applied] if hour_ns < last_ns else []
        own = known.get(row["rate_key"])
        price = None if own is None else Fraction(int(own["numerator"]), int(own["denominator"]))
        settled = Interval(row["start_ns"], row["end_ns"])
        total = sum(_cost(piece, hour_ns, price, tables) for piece in settled.split(_edges(tables)))
        place = row["device_key"], hour_ns
        found[place] = found.get(place, 0) + total
    return found


def _edges(tables: Sequence[Sequence[Rate]]) -> set[int]:
    """Every instant at which one of the tables changes a price."""
    rates = [rate for table in tables for rate in table]
    edges = [*(rate.valid_from_ns for rate in rates), *(rate.valid_to_ns for rate in rates)]
    return {edge for edge in edges if edge is not None}


def _cost(
    piece: Interval, hour_ns: int, price: Fraction | None, tables: Sequence[Sequence[Rate]]
) -> int:
    """A piece within one hour: metered at `price`, then at what each table made of it."""
    origin_ns = hour_ns
    for table in tables:
        for row in table:
            if row.holds_at(piece.start_ns) and row.units_per_hour != price:
                price, origin_ns = row.units_per_hour, max(hour_ns, row.valid_from_ns or 0)
    if price is None:
        return 0
    start, end = (price * (at_ns - origin_ns) // HOUR for at_ns in (piece.start_ns, piece.end_ns))
    return int(end - start)
