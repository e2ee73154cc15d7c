"""The audit finds what was done to rollups, also where they are all that is left."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tests.cost.rollups.random_book import T0
from tests.cost.rollups.two_days import HOURS, let_go

from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit import AuditResult, audit, audit_text
from apportion.cost.ledger.reader import LedgerReader

HOUR = NS_PER_HOUR
OLD = T0 + 3 * HOUR
"""An hour whose rows are deleted."""
NEW = T0 + (HOURS - 5) * HOUR
"""One whose rows are there."""
NO_LINES = "1, 1, 0, 2, 1, 1, 1, 1, 1, 5, 0, 0, 5, 0"
"""A row of `rollup_cost` from its entity on."""


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days, rolled up, of which the first is in rollups alone."""
    path = tmp_path_factory.mktemp("audited") / "ledger.db"
    with let_go(path) as ledger:
        assert audit(ledger).holds, audit_text(audit(ledger))
        with ledger._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def after(right: Path, tmp_path: Path, statement: str) -> AuditResult:
    """What the audit says once somebody has been at a copy with SQL."""
    path = tmp_path / "ledger.db"
    path.write_bytes(right.read_bytes())
    connection = sqlite3.connect(path)
    assert connection.execute(statement).rowcount > 0, f"changed nothing: {statement}"
    connection.commit()
    connection.close()
    with LedgerReader.of(path) as reader:
        return audit(reader)


TAMPERINGS = {
    "a sum of kept lines": (
        f"UPDATE rollup_cost SET units_low = units_low + 1 WHERE hours = 1 AND start_ns = {NEW}",
        "rolled up",
        "rollup_cost",
    ),
    "a sum of kept settlements": (
        f"UPDATE rollup_meter SET energy_mj = energy_mj - 1 WHERE hours = 1 AND start_ns = {NEW}",
        "rolled up",
        "rollup_meter",
    ),
    "a sum of kept parts taken out": (
        f"DELETE FROM rollup_part WHERE hours = 1 AND start_ns = {NEW}",
        "rolled up",
        "the ledger has None",
    ),
    "a sum that has no lines": (
        f"INSERT INTO rollup_cost SELECT 1, agent_id, {NEW}, {NO_LINES} FROM agent",
        "rolled up",
        "should be None",
    ),
    "a sum of deleted lines": (
        f"UPDATE rollup_cost SET units_low = units_low + 1 WHERE hours = 1 AND start_ns = {OLD}",
        "charged",
        "units of lines",
    ),
    "a sum of deleted parts": (
        f"UPDATE rollup_part SET device_ns = device_ns + 1 WHERE hours = 1 AND start_ns = {OLD}",
        "charged",
        "device_ns of lines",
    ),
    "both sides of deleted rows": (
        f"UPDATE rollup_meter SET units_low = units_low + 1 WHERE hours = 1 AND start_ns = {OLD}",
        "longer",
        "rollup_meter",
    ),
    "a deleted hour of the meter taken out": (
        f"DELETE FROM rollup_meter WHERE hours = 1 AND start_ns = {OLD}",
        "longer",
        "rollup_meter",
    ),
    "requests of an hour": (
        f"UPDATE rollup_span SET spans = spans + 1 WHERE hours = 1 AND start_ns = {NEW}",
        "rolled spans",
        "rollup_span of entity 1",
    ),
    "tokens of a day": (
        "UPDATE rollup_span SET input_tokens = input_tokens + 1 WHERE hours = 24",
        "longer",
        "of 24 hours",
    ),
    "a week": (
        "UPDATE rollup_part SET energy_mj = energy_mj + 1 WHERE hours = 168",
        "longer",
        "of 168 hours",
    ),
    "a mark that is too far": (
        "UPDATE rollup_mark SET kept_from_ns = kept_from_ns - 3600000000000",
        "contiguous",
        "start should be",
    ),
    "a span of an unknown entity": (
        "UPDATE span SET entity_key = 99 WHERE number = 50",
        "orphans",
        "entity_key 99 should be a row of entity",
    ),
    "a rollup of an unknown group": (
        f"UPDATE rollup_cost SET group_key = 9 WHERE hours = 24 AND start_ns < {T0}",
        "orphans",
        "group_key 9",
    ),
    "a method that is called another": (
        "UPDATE method SET name = 'roofline-windows/1'",
        "methods",
        "name should be time-share/1",
    ),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found(right: Path, tmp_path: Path, kind: str) -> None:
    """Whatever was changed, the first check that can see it fails and points at it."""
    statement, name, message = TAMPERINGS[kind]
    result = after(right, tmp_path, statement)
    failing = [check for check in result.checks if not check.holds]
    assert failing, kind
    assert failing[0].name == name
    assert message in str(failing[0].finding)
    assert result.exit_code == 1


def test_a_meter_that_does_not_follow_its_rate(right: Path, tmp_path: Path) -> None:
    """Where every sum was changed alike, deleted hours still have to cost what the rate says."""
    path = tmp_path / "ledger.db"
    path.write_bytes(right.read_bytes())
    connection = sqlite3.connect(path)
    day = OLD - OLD % (24 * HOUR)
    week = OLD - OLD % (168 * HOUR)
    for table, more in (
        ("rollup_meter", ""),
        ("rollup_part", " AND category = 7"),
        ("rollup_cost", " AND category = 7"),
    ):
        for hours, start_ns in ((1, OLD), (24, day), (168, week)):
            connection.execute(
                f"UPDATE {table} SET units_low = units_low + 1 "
                f"WHERE hours = {hours} AND start_ns = {start_ns}{more}"
            )
    connection.commit()
    connection.close()
    with LedgerReader.of(path) as reader:
        result = audit(reader)
    assert [check.name for check in result.checks if not check.holds] == ["rolled meter"]
    assert f"[{OLD}, {OLD + HOUR}) ns: units should be" in str(result.first)
