"""A report by workload, tenant and day over a year of rollups, on SQLite and on PostgreSQL.

The year is made up: one node of eight GPUs at 3.60 an hour, five of them serving and three
training at any time; 20 servers and 30 trainers in the year, 200 tenants of which each calls a
server, fewer at night. Every device-hour is given away to the nanosecond, so that the report's
proof holds. The ledger has the rollups of all hours, days and weeks and no lines, as after
retention. Reports are timed by the wall clock, in one process.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

from sqlalchemy import Engine, insert
from tests.postgres import PostgresServer

from apportion.core.category import Category, Phase, SpanKind
from apportion.core.clock import SystemClock
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.batch import ChargeKind, Row, TickBatch
from apportion.cost.ledger.engine import WRITES, ledger_url, open_engine
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.migration import migrate
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.rollup_tables import rollup_meter_mark
from apportion.cost.ledger.shared import SharedLedger
from apportion.cost.ledger.ship import ship
from apportion.cost.report import report
from apportion.cost.report_rows import Report
from apportion.cost.rollups.grains import Grains, Rolled
from apportion.cost.rollups.line_piece import COST
from apportion.cost.rollups.marks import Mark
from apportion.cost.rollups.meter_piece import METER, PART
from apportion.cost.rollups.sources import GRAINS
from apportion.cost.rollups.span_piece import SPAN
from apportion.cost.rollups.spans import SpanSums
from apportion.cost.testing import memory_ledger

WEEK = 168
YEAR_HOURS = 365 * 24
START_NS = 472_248 * NS_PER_HOUR - 472_248 * NS_PER_HOUR % (WEEK * NS_PER_HOUR)
END_NS = START_NS + YEAR_HOURS * NS_PER_HOUR
SERVING, TRAINING = (1, 2, 3, 4, 5), (6, 7, 8)
DEVICES = (*SERVING, *TRAINING)
SERVERS, TRAINERS, TENANTS = 20, 30, 200
HOUR_MJ = 400 * 3_600 * 1_000
"""Of a device at 400 W. An hour costs as many units as it has nanoseconds."""
BY = (("workload", "tenant", "day"), ("workload", "tenant"), ("category", "device"))
ROUNDS = 7

Share = tuple[int, Category, int, int]
"""Entity, category, phase, nanoseconds of a device-hour."""


class Year:
    """Who called which server, and who trained; entities as the ledger numbers them."""

    def __init__(self) -> None:
        self._random = Random(7)
        self.entities: list[Row] = []
        self._servers = [self._entity(f"server-{n:02}") for n in range(SERVERS)]
        self._callers: list[list[int]] = [[] for _ in range(SERVERS)]
        for tenant in range(TENANTS):
            server = tenant % SERVERS
            names = (f"server-{server:02}", f"tenant-{tenant:03}", "llama-3.1-8b")
            self._callers[server].append(self._entity(*names))
        self._trainers = [self._entity(f"trainer-{n:02}", run=f"run-{n}") for n in range(TRAINERS)]

    def _entity(
        self,
        workload: str,
        tenant: str | None = None,
        model: str | None = None,
        run: str | None = None,
    ) -> int:
        key = len(self.entities) + 1
        self.entities.append((key, workload, run, run and "1", tenant, model, None))
        return key

    def shares(self, hour: int, device: int) -> Iterator[Share]:
        """Who has how much of a device-hour."""
        random, left_ns = self._random, NS_PER_HOUR
        if device in TRAINING:
            place = hour // (5 * WEEK) * len(TRAINING) + device - TRAINING[0]
            trainer = self._trainers[place % TRAINERS]
            for phase, percent in (
                (Phase.FORWARD, 30),
                (Phase.BACKWARD, 55),
                (Phase.OPTIMIZER, 10),
            ):
                ns = NS_PER_HOUR * percent // 100
                yield trainer, Category.DIRECT, int(phase), ns
                left_ns -= ns
            yield trainer, Category.BETWEEN_STEPS, 0, left_ns
            return
        server = (hour // (13 * WEEK) * len(SERVING) + device - 1) % SERVERS
        busy = 0.4 if 8 <= hour % 24 < 20 else 0.15
        callers = [entity for entity in self._callers[server] if random.random() < busy]
        for entity in callers:
            ns = random.randrange(1, NS_PER_HOUR // len(callers))
            yield entity, Category.DIRECT, int(Phase.PREFILL), ns // 5
            yield entity, Category.DIRECT, int(Phase.DECODE), ns - ns // 5
            left_ns -= ns
        yield self._servers[server], Category.ALLOCATED_IDLE, 0, left_ns


def run() -> dict[str, object]:
    """Seconds of each report by database, and how many rows there are."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "ledger.db"
        ledger = stack.enter_context(memory_ledger(path))
        year = Year()
        ledger.commit(named(year))
        engines = {"sqlite": open_engine(ledger_url(path))}
        readers: dict[str, LedgerReader] = {"sqlite": ledger}
        if shutil.which("initdb") is not None:
            url = _shared(stack, ledger)
            engines["postgresql"] = open_engine(ledger_url(url))
            readers["postgresql"] = stack.enter_context(LedgerReader.of(url))
        counts = fill(year, ledger.agent_id, list(engines.values()))
        found: dict[str, object] = {"rollup rows": counts}
        found |= {name: measured(reader) for name, reader in readers.items()}
        for engine in engines.values():
            engine.dispose()
    return found


def _shared(stack: ExitStack, ledger: Ledger) -> str:
    """A PostgreSQL that knows the node's devices and entities; its URL."""
    server = PostgresServer()
    stack.callback(server.close)
    server.start()
    url = server.url(stack.enter_context(server.database()))
    migrate(url)
    ledger.outbox.switch_on(1 << 20)
    shared = SharedLedger(url, SystemClock())
    while not ship(ledger, shared).done:
        pass
    shared.close()
    return url


def measured(ledger: LedgerReader) -> dict[str, object]:
    """Reports over the whole year."""
    found: dict[str, object] = {}
    for by in BY:
        times: list[float] = []
        results: list[Report] = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            results = [report(ledger, by=by)]
            times.append(time.perf_counter() - start)
        (result,) = results
        if not result.proof.holds or result.proof.metered.device_ns != 8 * (END_NS - START_NS):
            message = f"the report by {', '.join(by)} does not add up"
            raise AssertionError(message)
        found[f"by {', '.join(by)}"] = {
            "rows": len(result.rows),
            "s": statistics.median(times),
            "best s": min(times),
        }
    return found


def named(year: Year) -> TickBatch:
    """Devices, their price, entities."""
    batch = TickBatch()
    batch.insert("method", [(1, "time-share/1")])
    batch.insert("device", [(key, f"GPU-{key}", "H100", "nvml", 0) for key in DEVICES])
    batch.insert("device_group", [(key, str(key)) for key in DEVICES])
    facts = ("USD", "gpu", "contract", "made up", "2023-11-01", None, None)
    batch.insert("rate", [(1, "H100", "3.60", str(NS_PER_HOUR), "1", *facts)])
    batch.insert("entity", year.entities)
    batch.replace("watermark", [(key, END_NS, START_NS, None, None) for key in DEVICES])
    return batch


def fill(year: Year, agent_id: int, engines: Sequence[Engine]) -> dict[str, int]:
    """Write the year's rollups, week by week, everywhere; how many rows of each length."""
    counts = dict.fromkeys((f"{hours} h" for hours in GRAINS), 0)
    with ExitStack() as stack:
        connections = [
            stack.enter_context(engine.connect().execution_options(**{WRITES: True}))
            for engine in engines
        ]
        for first in range(0, YEAR_HOURS, WEEK):
            hours = range(first, min(first + WEEK, YEAR_HOURS))
            for grains, rows in week_of(year, agent_id, hours):
                for length in GRAINS:
                    folded = grains.folded(rows, length)
                    counts[f"{length} h"] += len(folded)
                    for connection in connections:
                        grains.insert(connection, length, folded)
        marks = [{"agent_id": agent_id, "device_key": k, "rolled_ns": END_NS} for k in DEVICES]
        for connection in connections:
            Mark(1, 0, 10**9, END_NS, END_NS, END_NS).store(connection, agent_id)
            connection.execute(insert(rollup_meter_mark), marks)
            connection.commit()
    return counts


def week_of(year: Year, agent_id: int, hours: range) -> list[tuple[Grains, Rolled]]:
    """Both sides of the book, and the spans, of some hours."""
    cost: Rolled = {}
    meter: Rolled = {}
    part: Rolled = {}
    spans: Rolled = {}
    for hour in hours:
        start_ns = START_NS + hour * NS_PER_HOUR
        for device in DEVICES:
            total_mj = 0
            for entity, category, phase, ns in year.shares(hour, device):
                amounts = (ns, 0, ns, HOUR_MJ * ns // NS_PER_HOUR)
                total_mj += amounts[-1]
                who = (entity, int(category), 0, phase, int(ChargeKind.CHARGE), device, 1, 1)
                cost[(agent_id, start_ns, *who)] = (1_000, *amounts)
                place = (agent_id, start_ns, device, int(category), 0, device)
                part[place] = PART.together(part.get(place, (0, 0, 0, 0)), amounts)
                if phase in {Phase.PREFILL, Phase.FORWARD}:
                    kind, sums = _spans(device, ns)
                    spans[agent_id, start_ns, entity, int(kind)] = sums
            edges = (start_ns, start_ns + NS_PER_HOUR)
            amounts = (NS_PER_HOUR, 0, NS_PER_HOUR, total_mj)
            meter[agent_id, start_ns, device, 1, "energy_counter", 0] = (*edges, *amounts)
    return [(COST, cost), (METER, meter), (PART, part), (SPAN, spans)]


def _spans(device: int, ns: int) -> tuple[SpanKind, SpanSums]:
    if device in SERVING:
        return SpanKind.REQUEST, SpanSums(
            spans=1_000,
            input_tokens=512_000,
            output_tokens=64_000,
            divided_input_tokens=512_000,
            divided_output_tokens=64_000,
            input_units=ns,
            units=4 * ns,
        )
    return SpanKind.STEP, SpanSums(
        spans=1_000,
        unnumbered=1_000,
        unnumbered_charged=1_000,
        tokens=8_192_000,
        duration_ns=NS_PER_HOUR,
        units=ns,
    )
