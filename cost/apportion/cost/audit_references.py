"""Rows and what they refer to: nothing hangs in the air, and methods are what they are called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import select, text

from apportion.cost.audit_finding import Checker, Finding
from apportion.cost.ledger.price_tables import device_share, price_rule, repricing
from apportion.cost.ledger.rollup_tables import rollup_cost, rollup_meter, rollup_part, rollup_span
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import (
    accrual,
    agent,
    binding,
    boot,
    charge,
    device,
    device_group,
    entity,
    evidence,
    idle_power,
    lost_work,
    method,
    rate,
    ring,
    ring_position,
    settlement,
    settlement_part,
    span,
    wall_offset,
    watermark,
)
from apportion.cost.methods.names import Method

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

    from apportion.cost.audit_finding import Check, Names

_NAME: Final = re.compile(r"[a-z][a-z0-9-]*/[1-9][0-9]*")


class _Reference(NamedTuple):
    """A column that names a row of another table of the same agent. 0 and NULL name none."""

    table: Table
    column: str
    target: Table
    key: str


_OWNED: Final = (boot, wall_offset, device, device_group, rate, entity, ring, charge, settlement)
"""Tables whose rows are looked at for an agent that is not there; others refer to these."""
_REFERENCES: Final = (
    *(_Reference(table, "agent_id", agent, "agent_id") for table in _OWNED),
    _Reference(watermark, "device_key", device, "device_key"),
    _Reference(settlement, "device_key", device, "device_key"),
    _Reference(settlement_part, "group_key", device_group, "group_key"),
    _Reference(evidence, "device_key", device, "device_key"),
    _Reference(ring_position, "ring_key", ring, "ring_key"),
    _Reference(binding, "ring_key", ring, "ring_key"),
    _Reference(binding, "group_key", device_group, "group_key"),
    _Reference(span, "ring_key", ring, "ring_key"),
    _Reference(span, "entity_key", entity, "entity_key"),
    _Reference(accrual, "group_key", device_group, "group_key"),
    _Reference(accrual, "entity_key", entity, "entity_key"),
    _Reference(accrual, "ring_key", ring, "ring_key"),
    _Reference(accrual, "rate_key", rate, "rate_key"),
    _Reference(accrual, "method_key", method, "method_key"),
    _Reference(lost_work, "ring_key", ring, "ring_key"),
    _Reference(idle_power, "device_key", device, "device_key"),
    _Reference(device_share, "device_key", device, "device_key"),
    _Reference(repricing, "device_key", device, "device_key"),
    _Reference(repricing, "to_rate_key", rate, "rate_key"),
    _Reference(price_rule, "device_key", device, "device_key"),
    _Reference(price_rule, "rate_key", rate, "rate_key"),
    _Reference(rollup_cost, "entity_key", entity, "entity_key"),
    _Reference(rollup_cost, "group_key", device_group, "group_key"),
    _Reference(rollup_cost, "rate_key", rate, "rate_key"),
    _Reference(rollup_cost, "method_key", method, "method_key"),
    _Reference(rollup_meter, "device_key", device, "device_key"),
    _Reference(rollup_meter, "rate_key", rate, "rate_key"),
    _Reference(rollup_part, "group_key", device_group, "group_key"),
    _Reference(rollup_span, "entity_key", entity, "entity_key"),
)


def reference_checks(connection: Connection, names: Names) -> list[Check]:
    """See the module. What a line of the ledger refers to is looked at with the lines."""
    return [_orphans(connection, names), _methods(connection)]


def _orphans(connection: Connection, names: Names) -> Check:
    checker = Checker("orphans", "what a row refers to is there", "references")
    for reference in _REFERENCES:
        table, target = reference.table, reference.target
        column = reference.column
        same = f"target.{reference.key} = source.{column}"
        if "agent_id" in target.c:
            same += " AND target.agent_id = source.agent_id"
        # As text: these are many, and SQLAlchemy takes longer to put them together than a small
        # ledger takes to answer. Every name is the schema's own.
        query = text(
            f"SELECT source.agent_id, source.{column}, count(*) FROM {table.name} AS source "  # noqa: S608
            f"WHERE source.{column} <> 0 "
            f"AND NOT EXISTS (SELECT 1 FROM {target.name} AS target WHERE {same}) "
            "GROUP BY 1, 2 ORDER BY 1, 2 LIMIT 1"
        )
        found = [
            Finding(
                names.node(agent_id),
                f"{count} rows of {table.name}",
                0,
                0,
                f"{column} {value}",
                f"a row of {target.name}",
                "none",
            )
            for agent_id, value, count in rows(connection, query)
        ]
        checker.examine(found[0] if found else None)
    return checker.done()


def _methods(connection: Connection) -> Check:
    """Keys are the same for all agents, so a name in a line is what this release means by it."""
    checker = Checker("methods", "each method has its own name and version", "methods")
    known = {int(method): method.label for method in Method}
    seen: set[str] = set()
    for key, name in rows(
        connection, select(method.c.method_key, method.c.name).order_by(method.c.method_key)
    ):
        wanted = known.get(key)
        if wanted is None and (name in seen or not _NAME.fullmatch(name)):
            wanted = "a name of its own such as time-share/1"
        seen.add(name)
        checker.examine(
            None
            if wanted in {None, name}
            else Finding("every node", f"method {key}", 0, 0, "name", str(wanted), str(name))
        )
    return checker.done()
