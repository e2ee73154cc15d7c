"""A tick's rows into a real PostgreSQL: shipped by COPY, beside psycopg's `executemany`.

By the wall clock, with the server on the same machine; it does most of the work, in processes of
its own. Both write equal rows to the ledger's tables, in one transaction; rounds are interleaved.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from tests.postgres import PostgresServer

from apportion.core.clock import SystemClock
from apportion.cost.audit import audit
from apportion.cost.ledger.batch import TickBatch
from apportion.cost.ledger.migration import migrate
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.shared import SharedLedger
from apportion.cost.ledger.ship import ship
from apportion.cost.ledger.tables import metadata
from apportion.cost.report import report
from apportion.cost.testing import memory_ledger

HOT = ("span", "charge")


def shipping(batch: TickBatch, rounds: int) -> dict[str, object]:
    """Rows per second of either way, and seconds of the readers, on PostgreSQL."""
    if shutil.which("initdb") is None:
        return {"left out": "initdb is not on PATH: run packaging/install-debian.sh"}
    server = PostgresServer()
    try:
        server.start()
        with server.database() as name:
            migrate(server.url(name))
            return _measure(server.url(name), batch, rounds)
    finally:
        server.close()


def _measure(url: str, batch: TickBatch, rounds: int) -> dict[str, object]:
    count = sum(len(batch.inserted[name]) for name in HOT)
    rest = {name: found for name, found in batch.inserted.items() if name not in HOT}
    rest["watermark"] = batch.replaced["watermark"]
    times: dict[str, list[float]] = {"shipped": [], "executemany": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        memory_ledger(Path(folder) / "ledger.db") as ledger,
        psycopg.connect(url) as connection,
    ):
        ledger.outbox.switch_on(1 << 30)
        shared = SharedLedger(url, SystemClock())
        ship(ledger, shared)
        ledger.commit(TickBatch(inserted=dict(rest)))
        ship(ledger, shared)
        hot = {name: batch.inserted[name] for name in HOT}
        for number in range(rounds):
            # The same rows under new keys: what was shipped before stays out of the way.
            renewed = {name: _renewed(name, found, number) for name, found in hot.items()}
            ledger.commit(TickBatch(inserted=renewed))
            times["shipped"].append(_wall_s(lambda: ship(ledger, shared)))
            times["executemany"].append(_peer(connection, renewed, -1 - number))
        shared.close()
        found: dict[str, object] = {}
        for table in HOT:
            connection.execute(f"DELETE FROM {table} WHERE agent_id < 0".encode())  # noqa: S608
        connection.commit()
        with LedgerReader.of(url) as reader:
            found["report s"] = _wall_s(lambda: report(reader))
            found["audit s"] = _wall_s(lambda: audit(reader))
    rates = {name: count / statistics.median(each) for name, each in times.items()}
    return {
        "shipped rows/s": rates["shipped"],
        "executemany rows/s": rates["executemany"],
        "shipped / executemany": rates["shipped"] / rates["executemany"],
        f"of {rounds} ticks": found,
    }


def _renewed(name: str, rows: list[tuple[Any, ...]], number: int) -> list[tuple[Any, ...]]:
    if name == "charge":
        return [(row[0] + number * len(rows), *row[1:]) for row in rows]
    return [
        (row[0], row[1] + number * len(rows), row[2] + number * len(rows), *row[3:]) for row in rows
    ]


def _peer(
    connection: psycopg.Connection[Any], rows: dict[str, list[tuple[Any, ...]]], agent_id: int
) -> float:
    whole = {name: [(agent_id, *row) for row in found] for name, found in rows.items()}

    def write() -> None:
        with connection.cursor() as cursor:
            for name, found in whole.items():
                marks = ", ".join(["%s"] * len(metadata.tables[name].c))
                statement = f"INSERT INTO {name} VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608
                cursor.executemany(statement.encode(), found)
        connection.commit()

    return _wall_s(write)


def _wall_s(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
