"""The book against itself: every instant metered once, every unit and millijoule in one line.

Everything is computed again from the ledger's rows in Python integers; nothing is shared with
the code that wrote them. First what was metered against the lines as they were first posted, then
what new prices changed later against its lines: lines = meter + adjustments.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from apportion.cost.audit_deleted import rolled_meter_check
from apportion.cost.audit_finding import Names
from apportion.cost.audit_grains import grains_check
from apportion.cost.audit_lines import line_checks
from apportion.cost.audit_meter import meter_checks
from apportion.cost.audit_prices import price_checks
from apportion.cost.audit_references import reference_checks
from apportion.cost.audit_rolled_spans import rolled_spans_check
from apportion.cost.audit_rollups import rollup_check
from apportion.cost.audit_rules import rule_checks
from apportion.cost.audit_spans import span_checks
from apportion.cost.figure_text import instant
from apportion.cost.period import WallTime
from apportion.cost.rollups.marks import all_marks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.cost.audit_finding import Check, Finding
    from apportion.cost.ledger.reader import LedgerReader


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Every claim that was checked, in the order in which they build on one another."""

    ledger: str
    checks: tuple[Check, ...]
    kept_since: Mapping[str, int] = field(default_factory=dict[str, int])
    """By node from when on (unix ns) rows are there; what is older is in rollups alone."""

    @property
    def holds(self) -> bool:
        """Is the book right?"""
        return all(check.holds for check in self.checks)

    @property
    def first(self) -> Finding | None:
        """The first thing that is wrong; None in a right book."""
        return next((check.finding for check in self.checks if check.finding is not None), None)

    @property
    def exit_code(self) -> int:
        """What a command that audits ends with."""
        return 0 if self.holds else 1


def audit(ledger: LedgerReader) -> AuditResult:
    """Check everything that must hold in `ledger`, as of one moment.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    with ledger.read() as connection:
        names = Names.load(connection)
        checks = [
            *meter_checks(connection, names),
            *line_checks(connection, names),
            *price_checks(connection, names),
            *rule_checks(connection, names),
            *span_checks(connection, names),
            *reference_checks(connection, names),
            rollup_check(connection, names),
            rolled_spans_check(connection, names),
            grains_check(connection, names),
            rolled_meter_check(connection, names),
        ]
        wall, marks = WallTime.load(connection), all_marks(connection)
    kept = {
        names.node(agent_id): wall.unix(agent_id, mark.kept_from_ns)
        for agent_id, mark in marks.items()
        if mark.kept_from_ns is not None
    }
    return AuditResult(ledger.name, tuple(checks), kept)


def audit_text(result: AuditResult) -> str:
    """The outcome for people: a line for each claim, then the first thing that is wrong."""
    lines = [f"Audit of {result.ledger}"]
    lines += [
        f"  rows of {node} are kept from {instant(at)} on; what is older is in rollups alone"
        for node, at in sorted(result.kept_since.items())
    ]
    for check in result.checks:
        verdict = "ok  " if check.holds else "FAIL"
        lines.append(f"  {verdict}  {check.name:<12} {check.claim} ({check.examined} {check.unit})")
    if result.first is None:
        lines.append("Clean: lines = meter + adjustments, to the unit and the millijoule.")
    else:
        lines.append(f"First: {result.first}")
        others = [check.finding for check in result.checks if check.finding is not None][1:]
        lines += [f"Also:  {finding}" for finding in others]
    return "\n".join(lines) + "\n"


def audit_json(result: AuditResult) -> str:
    """The outcome for programs; `first` repeats the finding of the first check that fails."""
    document = {
        "ledger": result.ledger,
        "holds": result.holds,
        "kept_since_unix_ns": dict(result.kept_since),
        "checks": [{**asdict(check), "holds": check.holds} for check in result.checks],
        "first": None if result.first is None else asdict(result.first),
    }
    return json.dumps(document, indent=2) + "\n"
