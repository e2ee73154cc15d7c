"""The other side of the book: lines and running sums are what the settlements gave away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, case, func, not_, or_, select

from apportion.core.category import SETTLED, Category
from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_deleted import Deleted, moves_of_deleted
from apportion.cost.audit_finding import Checker, Finding, category_label
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import (
    accrual,
    charge,
    device_group,
    entity,
    method,
    rate,
    settlement_part,
)
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection

    from apportion.cost.audit_finding import Check, Names

FIGURES: Final = ("device_ns", "units", "energy_mj", "device_ns without units")


class _Place(NamedTuple):
    """Where both sides must agree. Time comes first, so that the first finding is the earliest."""

    hour_ns: int
    agent_id: int
    group: int
    category: int


Sums = tuple[int, int, int, int]
"""See FIGURES."""
_NOTHING: Final[Sums] = (0, 0, 0, 0)


def line_checks(connection: Connection, names: Names) -> list[Check]:
    """Lines against parts, reallocations against zero, lines against what they refer to."""
    return [
        _charged(connection, names),
        _reallocated(connection, names),
        _well_formed(connection, names),
    ]


def _charged(connection: Connection, names: Names) -> Check:
    checker = Checker(
        "charged",
        "what settlements gave to a group and category in an hour is in its lines",
        "sums",
    )
    part, line, deleted = settlement_part.c, charge.c, Deleted(connection)
    given = _sums(
        connection,
        part.agent_id,
        part.group_key,
        part.category,
        part.start_ns,
        settlement_part,
        deleted.parts(),
    )
    posted = _sums(
        connection,
        line.agent_id,
        line.group_key,
        line.category,
        line.start_ns,
        charge,
        line.kind == int(ChargeKind.CHARGE),
        deleted.lines(),
    )
    for sums, rolled in (
        (given, deleted.given(connection)),
        (posted, deleted.posted(connection)),
    ):
        for place, amounts in rolled.items():
            known = sums.get(_Place(*place), _NOTHING)
            pairs = zip(known, amounts, strict=True)
            sums[_Place(*place)] = _four(one + other for one, other in pairs)
    running = _sums(
        connection,
        accrual.c.agent_id,
        accrual.c.group_key,
        accrual.c.category,
        accrual.c.bucket_ns,
        accrual,
    )
    for place in sorted({*given, *posted, *running}):
        expected = given.get(place, _NOTHING)
        pairs = zip(posted.get(place, _NOTHING), running.get(place, _NOTHING), strict=True)
        found = tuple(one + other for one, other in pairs)
        wrong = _first_difference(expected, found)
        checker.examine(
            None
            if wrong is None
            else Finding(
                names.node(place.agent_id),
                f"{names.group(place.agent_id, place.group)}, {category_label(place.category)}",
                place.hour_ns,
                place.hour_ns + NS_PER_HOUR,
                f"{FIGURES[wrong]} of lines and running sums",
                str(expected[wrong]),
                str(found[wrong]),
            )
        )
    return checker.done()


def _sums(
    connection: Connection,
    agent_id: ColumnElement[int],
    group: ColumnElement[int],
    category: ColumnElement[int],
    instant_ns: ColumnElement[int],
    table: Any,
    *terms: ColumnElement[bool],
) -> dict[_Place, Sums]:
    hour = (instant_ns - instant_ns % NS_PER_HOUR).label("hour_ns")
    inner = (
        select(
            agent_id,
            group,
            category,
            hour,
            table.c.device_ns,
            table.c.units,
            table.c.energy_mj,
        )
        .where(*terms)
        .subquery("line")
    )
    keys = [inner.c.hour_ns, inner.c.agent_id, inner.c.group_key, inner.c.category]
    query = select(
        *keys,
        wide_sum(inner.c.device_ns),
        wide_sum(inner.c.units),
        wide_sum(inner.c.energy_mj),
        wide_sum(case((inner.c.units.is_(None), inner.c.device_ns))),
    ).group_by(*keys)
    return {
        _Place(*row[:4]): (row[4] or 0, row[5] or 0, row[6] or 0, row[7] or 0)
        for row in rows(connection, query)
    }


def _four(figures: Iterable[int]) -> Sums:
    device_ns, units, energy_mj, unpriced_ns = figures
    return device_ns, units, energy_mj, unpriced_ns


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    for index, (left, right) in enumerate(zip(one, other, strict=True)):
        if left != right:
            return index
    return None


def _reallocated(connection: Connection, names: Names) -> Check:
    """Cost moves between groups that share devices, so those are added up together."""
    checker = Checker("reallocated", "the moves posted together within an hour sum to zero", "sums")
    line = charge.c
    hour = (line.start_ns - line.start_ns % NS_PER_HOUR).label("hour_ns")
    moved = (
        select(
            line.agent_id,
            line.posted_ns,
            hour,
            line.group_key,
            line.device_ns,
            line.units,
            line.energy_mj,
        )
        .where(line.kind == int(ChargeKind.REALLOCATION))
        .subquery("moved")
    )
    keys = [moved.c.hour_ns, moved.c.agent_id, moved.c.posted_ns, moved.c.group_key]
    query = select(
        *keys, wide_sum(moved.c.device_ns), wide_sum(moved.c.units), wide_sum(moved.c.energy_mj)
    ).group_by(*keys)
    linked = names.linked_groups()
    found: dict[tuple[int, int, int, int], list[int]] = {}
    for hour_ns, agent_id, posted_ns, group, *sums in rows(connection, query):
        together = linked.get((agent_id, group)) or group
        amounts = found.setdefault((hour_ns, agent_id, posted_ns, together), [0, 0, 0])
        for index, value in enumerate(sums):
            amounts[index] += value or 0
    for hour_ns, agent_id, group, *sums in moves_of_deleted(connection, Deleted(connection)):
        together = linked.get((agent_id, group)) or group
        amounts = found.setdefault((hour_ns, agent_id, 0, together), [0, 0, 0])
        for index, value in enumerate(sums):
            amounts[index] += value or 0
    for (hour_ns, agent_id, posted_ns, group), amounts in sorted(found.items()):
        wrong = _first_difference((0, 0, 0), amounts)
        when = f"posted at {posted_ns}" if posted_ns else "whose lines are deleted"
        checker.examine(
            None
            if wrong is None
            else Finding(
                names.node(agent_id),
                names.group(agent_id, group),
                hour_ns,
                hour_ns + NS_PER_HOUR,
                f"{FIGURES[wrong]} of the moves {when}",
                "0",
                str(amounts[wrong]),
            )
        )
    return checker.done()


def _well_formed(connection: Connection, names: Names) -> Check:
    checker = Checker(
        "lines",
        "each line lies in one hour and names a known group, entity, rate and method",
        "lines",
    )
    line = charge.c
    known = [int(category) for category in Category]
    settled = [int(category) for category in SETTLED]
    hour_end = line.start_ns - line.start_ns % NS_PER_HOUR + NS_PER_HOUR
    before = rate.alias("before")
    source = (
        charge.outerjoin(
            device_group,
            and_(
                device_group.c.agent_id == line.agent_id, device_group.c.group_key == line.group_key
            ),
        )
        .outerjoin(
            entity, and_(entity.c.agent_id == line.agent_id, entity.c.entity_key == line.entity_key)
        )
        .outerjoin(rate, and_(rate.c.agent_id == line.agent_id, rate.c.rate_key == line.rate_key))
        .outerjoin(
            before,
            and_(before.c.agent_id == line.agent_id, before.c.rate_key == line.from_rate_key),
        )
        .outerjoin(method, method.c.method_key == line.method_key)
    )
    posts = line.kind == int(ChargeKind.CHARGE)
    adjusts = line.kind == int(ChargeKind.ADJUSTMENT)
    faults = {
        "end_ns": (
            "in the hour of its start",
            or_(line.end_ns < line.start_ns, line.end_ns > hour_end),
        ),
        "kind": ("known", line.kind.not_in([int(kind) for kind in ChargeKind])),
        "category": (
            "one that settlement assigns, others only by a move",
            or_(line.category.not_in(known), and_(posts, line.category.not_in(settled))),
        ),
        "device_ns": (
            "not negative in a charge, 0 in an adjustment",
            or_(and_(posts, line.device_ns < 0), and_(adjusts, line.device_ns != 0)),
        ),
        "energy_mj": ("NULL in an adjustment", and_(adjusts, line.energy_mj.is_not(None))),
        "units": ("a number in an adjustment", and_(adjusts, line.units.is_(None))),
        "group_key": ("known", device_group.c.group_key.is_(None)),
        "entity_key": ("known", and_(line.entity_key.is_not(None), entity.c.entity_key.is_(None))),
        "rate_key": ("known", and_(line.rate_key.is_not(None), rate.c.rate_key.is_(None))),
        "from_rate_key": (
            "known, and only in an adjustment",
            and_(line.from_rate_key.is_not(None), or_(not_(adjusts), before.c.rate_key.is_(None))),
        ),
        "method_key": ("known", method.c.method_key.is_(None)),
    }
    count = connection.execute(select(func.count()).select_from(charge)).scalar_one()
    for name, (expected, fault) in faults.items():
        for row in rows(
            connection,
            select(
                line.agent_id,
                line.charge_key,
                line.group_key,
                line.start_ns,
                line.end_ns,
                line[name].label("found"),
            )
            .select_from(source)
            .where(fault)
            .order_by(line.agent_id, line.charge_key)
            .limit(1),
        ):
            subject = f"line {row[1]} of {names.group(row[0], row[2])}"
            checker.examine(
                Finding(names.node(row[0]), subject, row[3], row[4], name, expected, str(row[5]))
            )
    checker.count(count)
    return checker.done()
