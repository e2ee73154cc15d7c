"""New prices for settled time: each costs the difference of its rates, and its lines say so.

Repricings are computed again from rates and settlements, never from the lines that they caused.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, func, not_, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_finding import Checker, Finding
from apportion.cost.audit_rates import RateFacts, rate_facts
from apportion.cost.audit_rules import BY_RULE
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.price_tables import repricing
from apportion.cost.ledger.rows import rows, stream
from apportion.cost.ledger.schema import charge, settlement
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from apportion.cost.audit_finding import Check, Names


class _Repricing(NamedTuple):
    agent_id: int
    device: int
    start_ns: int
    end_ns: int
    posted_ns: int
    before: int | None
    after: int
    units: int


class _Piece(NamedTuple):
    start_ns: int
    end_ns: int
    rate: int | None


_Place = tuple[int, int, int]
"""Hour, agent, device: the earliest comes first."""


def price_checks(connection: Connection, names: Names) -> list[Check]:
    """See the module."""
    posted = _repricings(connection)
    return [
        _repriced(connection, names, posted),
        _adjusted(connection, names, posted),
        _beside(connection, names),
    ]


def _repriced(
    connection: Connection, names: Names, posted: Mapping[_Place, list[_Repricing]]
) -> Check:
    checker = Checker(
        "repriced",
        "each new price follows the one before it and costs the difference",
        "repricings",
    )
    rates = rate_facts(connection)
    pieces = _settled(connection, posted)
    for place in sorted(posted):
        book = pieces.get(place, [])
        for row in posted[place]:
            checker.examine(_fault(names, rates, book, row))
            book = _after(book, row)
    return checker.done()


def _fault(
    names: Names, rates: Mapping[tuple[int, int], RateFacts], book: list[_Piece], row: _Repricing
) -> Finding | None:
    def finding(quantity: str, expected: object, found: object) -> Finding:
        node, device = names.node(row.agent_id), names.device(row.agent_id, row.device)
        shown = ("NULL" if figure is None else str(figure) for figure in (expected, found))
        return Finding(node, device, row.start_ns, row.end_ns, quantity, *shown)

    hour_ns = row.start_ns - row.start_ns % NS_PER_HOUR
    if not row.start_ns < row.end_ns <= hour_ns + NS_PER_HOUR:
        return finding("end of a new price", "in the hour of its start", row.end_ns)
    reached_ns = row.start_ns
    for piece in book:
        if piece.start_ns <= reached_ns < min(piece.end_ns, row.end_ns):
            if piece.rate != row.before:
                return finding("rate before a new price", piece.rate, row.before)
            reached_ns = piece.end_ns
    if reached_ns < row.end_ns:
        return finding("settled time with a new price", f"to {row.end_ns}", f"to {reached_ns}")
    costs: list[int] = []
    for key in (row.before, row.after):
        known = None if key is None else rates.get((row.agent_id, key))
        if key is not None and known is None:
            return finding(f"rate {key}", "a row of rate", "none")
        if known is not None and row.start_ns < known.origin_ns(row.start_ns):
            return finding(
                f"start of rate {key}", f"<= {row.start_ns}", known.origin_ns(row.start_ns)
            )
        costs.append(0 if known is None else known.units(row.start_ns, row.end_ns))
    if costs[1] - costs[0] != row.units:
        return finding("units of a new price", costs[1] - costs[0], row.units)
    return None


def _after(book: list[_Piece], row: _Repricing) -> list[_Piece]:
    """What time costs once `row` is posted."""
    found: list[_Piece] = []
    for piece in book:
        start_ns, end_ns = max(piece.start_ns, row.start_ns), min(piece.end_ns, row.end_ns)
        if start_ns >= end_ns:
            found.append(piece)
            continue
        cut = (piece.start_ns, start_ns, end_ns, piece.end_ns)
        for begin_ns, stop_ns, rate in zip(
            cut, cut[1:], (piece.rate, row.after, piece.rate), strict=False
        ):
            if begin_ns < stop_ns:
                found.append(_Piece(begin_ns, stop_ns, rate))
    return found


def _adjusted(
    connection: Connection, names: Names, posted: Mapping[_Place, list[_Repricing]]
) -> Check:
    """Groups that share devices share their new prices, so those are added up together."""
    checker = Checker(
        "adjusted", "what new prices cost in an hour is in the adjustments of its lines", "sums"
    )
    linked = names.linked_groups()
    alone = {
        (agent_id, members[0]): group
        for (agent_id, group), members in names.groups.items()
        if len(members) == 1
    }
    sums: dict[tuple[int, int, int, int, int], list[int]] = defaultdict(lambda: [0, 0])
    for (hour_ns, agent_id, device), of_device in posted.items():
        group = alone.get((agent_id, device), 0)
        together = linked.get((agent_id, group)) or group
        for row in of_device:
            sums[hour_ns, agent_id, together, row.before or 0, row.after][0] += row.units
    line = charge.c
    hour = (line.start_ns - line.start_ns % NS_PER_HOUR).label("hour_ns")
    adjusted = (
        select(
            hour,
            line.agent_id,
            line.group_key,
            func.coalesce(line.from_rate_key, 0).label("before"),
            func.coalesce(line.rate_key, 0).label("after"),
            line.units,
        )
        .where(line.kind == int(ChargeKind.ADJUSTMENT), line.category.not_in(BY_RULE))
        .subquery("adjusted")
    )
    keys = [adjusted.c[name] for name in ("hour_ns", "agent_id", "group_key", "before", "after")]
    query = select(*keys, wide_sum(adjusted.c.units)).group_by(*keys)
    for hour_ns, agent_id, group, before, after, units in rows(connection, query):
        together = linked.get((agent_id, group)) or group
        sums[hour_ns, agent_id, together, before, after][1] += units or 0
    for (hour_ns, agent_id, group, before, after), (expected, found) in sorted(sums.items()):
        checker.examine(
            None
            if expected == found
            else Finding(
                names.node(agent_id),
                names.group(agent_id, group),
                hour_ns,
                hour_ns + NS_PER_HOUR,
                f"units of adjustments from rate {before or 'none'} to {after}",
                str(expected),
                str(found),
            )
        )
    return checker.done()


def _beside(connection: Connection, names: Names) -> Check:
    checker = Checker(
        "beside", "whoever has an adjustment has time in that hour, or had it", "adjustments"
    )
    line = charge.c
    keys = ("category", "phase", "entity_key", "ring_key", "number")
    adjusts = and_(line.kind == int(ChargeKind.ADJUSTMENT), line.category.not_in(BY_RULE))
    whom = [
        line.agent_id,
        (line.start_ns - line.start_ns % NS_PER_HOUR).label("hour_ns"),
        line.group_key,
        *(func.coalesce(line[name], 0).label(name) for name in keys),
    ]
    alone = select(*whom).where(adjusts).except_(select(*whom).where(not_(adjusts)))
    for agent_id, hour_ns, group, *_ in sorted(rows(connection, alone))[:1]:
        subject = f"an adjustment of {names.group(agent_id, group)}"
        end_ns = hour_ns + NS_PER_HOUR
        checker.examine(
            Finding(
                names.node(agent_id), subject, hour_ns, end_ns, "lines beside it", "some", "none"
            )
        )
    count = connection.execute(select(func.count()).select_from(charge).where(adjusts))
    checker.count(count.scalar_one())
    return checker.done()


def _repricings(connection: Connection) -> dict[_Place, list[_Repricing]]:
    """In the order of posting."""
    row = repricing.c
    query = select(
        row.agent_id,
        row.device_key,
        row.start_ns,
        row.end_ns,
        row.posted_ns,
        row.from_rate_key,
        row.to_rate_key,
        row.units,
    ).order_by(row.posted_ns, row.start_ns)
    found: dict[_Place, list[_Repricing]] = defaultdict(list)
    for values in rows(connection, query):
        known = _Repricing(*values)
        hour_ns = known.start_ns - known.start_ns % NS_PER_HOUR
        found[hour_ns, known.agent_id, known.device].append(known)
    return found


def _settled(
    connection: Connection, posted: Mapping[_Place, list[_Repricing]]
) -> dict[_Place, list[_Piece]]:
    """The settlements of the hours that were re-priced, neighbours at one rate together."""
    if not posted:
        return {}
    part = settlement.c
    query = (
        select(part.agent_id, part.device_key, part.start_ns, part.end_ns, part.rate_key)
        .where(part.start_ns >= min(posted)[0], part.start_ns < max(posted)[0] + NS_PER_HOUR)
        .order_by(part.agent_id, part.device_key, part.start_ns)
    )
    found: dict[_Place, list[_Piece]] = {}
    for agent_id, device, start_ns, end_ns, rate in stream(connection, query):
        place = (start_ns - start_ns % NS_PER_HOUR, agent_id, device)
        if place not in posted:
            continue
        pieces = found.setdefault(place, [])
        begin_ns = start_ns
        if pieces and pieces[-1][1:] == (start_ns, rate):
            begin_ns = pieces.pop().start_ns
        pieces.append(_Piece(begin_ns, end_ns, rate))
    return found
