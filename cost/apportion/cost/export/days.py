"""Writes a ledger's datasets: which rows, of which days, to which files."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from apportion.core.units import NS_PER_SECOND
from apportion.cost.export.datasets import DATASETS, Rows
from apportion.cost.export.export import Exported
from apportion.cost.export.parquet import Dataset
from apportion.cost.figure_text import instant
from apportion.cost.ledger.rows import stream
from apportion.cost.period import Period, WallTime
from apportion.cost.rollups.cover import Stretch
from apportion.cost.rollups.marks import NEVER_NS
from apportion.cost.rollups.reach import kept_from

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from apportion.cost.export.datasets import Definition
    from apportion.cost.ledger.reader import LedgerReader

NS_PER_DAY: Final = 86_400_000_000_000
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


def write_days(
    ledger: LedgerReader, directory: Path, since_unix_ns: int | None, until_unix_ns: int | None
) -> Exported:
    """Every dataset under `directory`, a file for each day and agent.

    Days are those of UTC, whole ones of [since, until), None is open; a row belongs to the day of
    its hour. Of rows that retention has begun to delete no file is written: one that was written
    while they were all there is better.

    Raises:
        LedgerError: the ledger cannot be read, or pyarrow is not installed.
    """
    with ledger.read() as connection:
        wall = WallTime.load(connection)
        period = Period.around(
            None if since_unix_ns is None else since_unix_ns - since_unix_ns % NS_PER_DAY,
            None if until_unix_ns is None else until_unix_ns + -until_unix_ns % NS_PER_DAY,
            wall,
        )
        rows = Rows(connection, wall)
        exported = Exported({}, 0, [])
        for definition in DATASETS:
            for agent_id in sorted(wall.offsets):
                found = _write(connection, rows, definition, agent_id, period, directory)
                count = exported.rows.get(definition.name, 0) + found.rows[definition.name]
                exported = Exported(
                    {**exported.rows, definition.name: count},
                    exported.files + found.files,
                    exported.notes + found.notes,
                )
    return exported


def _write(
    connection: Connection,
    rows: Rows,
    definition: Definition,
    agent_id: int,
    period: Period,
    directory: Path,
) -> Exported:
    wall, notes = period.wall, list[str]()
    asked = Stretch(*period.edges(agent_id))
    first_unix_ns = NEVER_NS
    kept_ns = kept_from(connection, agent_id)
    if definition.of_rows and kept_ns != NEVER_NS:
        kept_unix_ns = wall.hour(agent_id, kept_ns)
        first_unix_ns = kept_unix_ns + -kept_unix_ns % NS_PER_DAY
        if asked.start_ns is None or asked.start_ns < kept_ns:
            notes.append(
                f"{definition.name} of {rows.node(agent_id)}: days before {instant(first_unix_ns)} "
                "stay as they are, their rows are not all kept"
            )
    name = f"{_UNSAFE.sub('_', rows.node(agent_id))}-{agent_id:016x}"
    facts = {"apportion.agent": f"{agent_id:016x}", "apportion.dataset": definition.name}
    dataset = Dataset(directory / definition.name, definition.columns, name, facts)
    days: dict[int, str] = {}
    try:
        for row in stream(connection, definition.query(agent_id, asked)):
            hour_ns, values = definition.build(rows, row)
            day = days.get(hour_ns)
            if day is None:
                day = days[hour_ns] = _day(wall, agent_id, hour_ns, first_unix_ns)
            if day:
                dataset.add(day, values)
        files = dataset.finish()
    except BaseException:
        dataset.abandon()
        raise
    return Exported({definition.name: dataset.rows}, files, notes)


def _day(wall: WallTime, agent_id: int, hour_ns: int, first_unix_ns: int) -> str:
    """The date of an hour; empty where it is not to be written."""
    unix_ns = wall.hour(agent_id, hour_ns)
    if unix_ns < first_unix_ns:
        return ""
    return f"{_EPOCH + timedelta(seconds=unix_ns // NS_PER_SECOND):%Y-%m-%d}"
