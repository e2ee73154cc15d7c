"""Spans and charges committed to the ledger, beside bare sqlite3 `executemany` of the same rows.

A round commits a tick of spans with one charge each to a file of its own; the peer writes equal
rows to equal tables (same columns and keys, WAL, synchronous=NORMAL) with prepared tuples. Rows
are made before the clock starts. Rounds are interleaved in one process; times are of the
process's CPU clock, so that a neighbour's disk does not count. A third series commits the same
ticks with an outbox, as an agent does whose ledger is shipped. Then, on the last ledger and by
the wall clock: a report, an audit, and what a restart loads; and the same rows on their way into
a PostgreSQL (`ledger_shipping`), where its programs are here.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from apportion.core.category import Category, Phase
from apportion.core.interval import Interval
from apportion.cost.audit import audit
from apportion.cost.ledger.batch import TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.schema import charge, span
from apportion.cost.ledger.statements import row_columns
from apportion.cost.ledger.tables import metadata
from apportion.cost.report import report
from apportion.cost.testing import Claim, LedgerBuilder, memory_ledger
from benchmarks.ledger_shipping import shipping

SPANS = 50_000
SMALL_SPANS = 1_000
ROUNDS = 7
SPAN_NS = 10_000_000
START_NS = 472_222 * 3_600_000_000_000


def run() -> dict[str, object]:
    """Rows per CPU second, median and best, and seconds of the readers."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        large = _interleaved(place, SPANS)
        small = _interleaved(place, SMALL_SPANS)
        return {
            "spans in a tick": SPANS,
            **large,
            "small tick": {"spans in a tick": SMALL_SPANS, **small},
            **_readers(place / "readers.db"),
            "postgresql": shipping(_tick(SPANS), ROUNDS),
        }


def _interleaved(place: Path, spans: int) -> dict[str, object]:
    batch = _tick(spans).inserted
    rows = {name: batch[name] for name in ("span", "charge")}
    count = sum(len(found) for found in rows.values())
    times: dict[str, list[float]] = {"ledger": [], "sqlite3": [], "with outbox": []}
    for number in range(ROUNDS):
        with memory_ledger(place / f"{spans}-{number}-shipped.db") as ledger:
            ledger.outbox.switch_on(1 << 30)
            times["with outbox"].append(_cpu_s(lambda: _commit(ledger, rows)))
        with memory_ledger(place / f"{spans}-{number}.db") as ledger:
            times["ledger"].append(_cpu_s(lambda: _commit(ledger, rows)))
            (held,) = _counts(place / f"{spans}-{number}.db")
        times["sqlite3"].append(_peer(place / f"{spans}-{number}-peer.db", ledger.agent_id, rows))
        assert held == count == sum(_counts(place / f"{spans}-{number}-peer.db"))
    return {
        "ledger rows/s": count / statistics.median(times["ledger"]),
        "ledger rows/s, best": count / min(times["ledger"]),
        "sqlite3 rows/s": count / statistics.median(times["sqlite3"]),
        "sqlite3 rows/s, best": count / min(times["sqlite3"]),
        "ledger / sqlite3": statistics.median(times["sqlite3"])
        / statistics.median(times["ledger"]),
        "with outbox / without": statistics.median(times["with outbox"])
        / statistics.median(times["ledger"]),
    }


def _tick(spans: int) -> TickBatch:
    """Requests one after the other on one device, each with prefill and decode in one charge."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, 2_400_000_000_000)
    builder.entity(1, "serve", tenant="search", model="llama-3.1-8b")
    builder.ring(1)
    phases = ((Phase.DECODE, 1),)
    for number in range(1, spans + 1):
        start_ns = START_NS + number * SPAN_NS
        interval = Interval(start_ns, start_ns + SPAN_NS)
        builder.span(
            1,
            number,
            interval,
            entity=1,
            first_token_ns=start_ns + 1,
            tokens=(512, 128, 64),
        )
        claim = Claim(Category.DIRECT, 1, 1, 1, number, phases=phases)
        builder.settle(1, interval, [claim], rate=1, power_mw=400_000)
    return builder.finished()


def _commit(ledger: Ledger, rows: dict[str, list[tuple[object, ...]]]) -> None:
    ledger.commit(TickBatch(inserted=dict(rows)))


def _peer(path: Path, agent_id: int, rows: dict[str, list[tuple[object, ...]]]) -> float:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    for table in (span, charge):
        keys = ", ".join(column.name for column in table.primary_key)
        columns = ", ".join(f"{column.name} {column.type}" for column in table.c)
        connection.execute(
            f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY ({keys})) WITHOUT ROWID"
        )
    connection.execute("CREATE INDEX span_end ON span (agent_id, end_ns)")
    prepared = {name: [(agent_id, *row) for row in found] for name, found in rows.items()}

    def write() -> None:
        for name, found in prepared.items():
            marks = ", ".join("?" for _ in (*row_columns(metadata.tables[name]), "agent_id"))
            statement = f"INSERT INTO {name} VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608
            connection.executemany(statement, found)
        connection.commit()

    try:
        return _cpu_s(write)
    finally:
        connection.close()


def _counts(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        query = "SELECT (SELECT count(*) FROM span) + (SELECT count(*) FROM charge)"
        return [int(row[0]) for row in connection.execute(query)]
    finally:
        connection.close()


def _readers(path: Path) -> dict[str, object]:
    with memory_ledger(path) as ledger:
        ledger.commit(_tick(SPANS))
        found: dict[str, object] = {}
        seconds = _wall_s(lambda: found.update(proof=report(ledger).proof.holds))
        assert found["proof"] is True
        audited = _wall_s(lambda: found.update(holds=audit(ledger).holds))
        assert found["holds"] is True
        return {
            "report s": seconds,
            "audit s": audited,
            "load_state s": _wall_s(lambda: ledger.load_state(10_000_000_000)),
            "bytes per span": path.stat().st_size / SPANS,
        }


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _wall_s(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
