"""What rules of price rows added: no more than their rate allows, and in lines of nobody's."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import func, or_, select

from apportion.core.category import Category
from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_finding import Checker, Finding, category_label
from apportion.cost.audit_rates import rate_facts
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.price_tables import price_rule
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import charge
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from apportion.cost.audit_finding import Check, Names

ROUNDING: Final = int(Category.BILLING_ROUNDING)
BY_RULE: Final = (int(Category.COMMITMENT_UNUSED), ROUNDING)
"""Categories of money that is no device's time."""


class _Piece(NamedTuple):
    """Where the rows of `price_rule` and the lines must agree; time comes first."""

    start_ns: int
    end_ns: int
    agent_id: int
    device: int
    category: int
    rate: int


def rule_checks(connection: Connection, names: Names) -> list[Check]:
    """See the module."""
    row = price_rule.c
    keys = [row.start_ns, row.end_ns, row.agent_id, row.device_key, row.category, row.rate_key]
    query = select(*keys, wide_sum(row.devices), wide_sum(row.units)).group_by(*keys)
    added = {
        _Piece(*found[:6]): (found[6] or 0, found[7] or 0) for found in rows(connection, query)
    }
    return [_allowed(connection, names, added), _posted(connection, names, added)]


def _allowed(connection: Connection, names: Names, added: dict[_Piece, tuple[int, int]]) -> Check:
    """A rounding is the time of one device; of a commitment at most all of it is unused."""
    checker = Checker("rules", "what a price rule adds is within what its rate says", "amounts")
    rates = rate_facts(connection)
    for piece, (devices, units) in sorted(added.items()):
        known = rates.get((piece.agent_id, piece.rate))
        hour_end_ns = piece.start_ns - piece.start_ns % NS_PER_HOUR + NS_PER_HOUR
        expected = found = ""
        if known is None:
            expected, found = f"a row of rate {piece.rate}", "none"
        elif piece.category not in BY_RULE:
            expected, found = "a category of price rules", str(piece.category)
        elif not piece.start_ns <= piece.end_ns <= hour_end_ns:
            expected, found = "to end in the hour of its start", str(piece.end_ns)
        elif piece.start_ns < known.origin_ns(piece.start_ns):
            expected, found = "to start with its rate", str(piece.start_ns)
        else:
            most = devices * known.units(piece.start_ns, piece.end_ns)
            if devices < 0 or not (0 <= units <= most):
                expected, found = f"from 0 to {most}", str(units)
            elif piece.category == ROUNDING and (devices > 1 or units != most):
                expected, found = f"{most} of at most one device", f"{units} of {devices}"
        checker.examine(_finding(names, piece, expected, found) if expected else None)
    return checker.done()


def _posted(connection: Connection, names: Names, added: dict[_Piece, tuple[int, int]]) -> Check:
    checker = Checker("ruled", "what a price rule adds is in lines that are nobody's", "sums")
    line = charge.c
    keys = [line.start_ns, line.end_ns, line.agent_id, line.group_key, line.category, line.rate_key]
    mine = line.category.in_(BY_RULE)
    nobody = func.coalesce(line.entity_key, line.ring_key, line.number, line.phase)
    query = select(*keys, wide_sum(line.units)).where(mine).group_by(*keys)
    sums: dict[_Piece, list[int]] = defaultdict(lambda: [0, 0])
    for piece, (_, units) in added.items():
        sums[piece][0] += units
    for *place, units in rows(connection, query):
        members = names.groups.get((place[2], place[3]), (0,))
        piece = _Piece(place[0], place[1], place[2], members[0], place[4], place[5] or 0)
        sums[piece][1] += units or 0
    for piece, (expected, found) in sorted(sums.items()):
        right = None if expected == found else _finding(names, piece, str(expected), str(found))
        checker.examine(right)
    wrong = or_(nobody.is_not(None), line.kind != int(ChargeKind.ADJUSTMENT))
    whose = select(*keys, line.charge_key).where(mine, wrong).order_by(line.charge_key).limit(1)
    for start_ns, end_ns, agent_id, group, *_, key in rows(connection, whose):
        node, subject = names.node(agent_id), f"line {key} of {names.group(agent_id, group)}"
        wanted = "an adjustment of nobody's"
        checker.examine(Finding(node, subject, start_ns, end_ns, "it", wanted, "another line"))
    return checker.done()


def _finding(names: Names, piece: _Piece, expected: str, found: str) -> Finding:
    device = names.device(piece.agent_id, piece.device)
    subject = f"{category_label(piece.category)} beside {device}"
    node = names.node(piece.agent_id)
    return Finding(node, subject, piece.start_ns, piece.end_ns, "units", expected, found)
