"""A report by workload, tenant and day over a year of rollups, on SQLite and on PostgreSQL.

The year is made up: one node of eight GPUs at 3.60 an hour, five of them serving and three
training at any time; 20 servers and 30 trainers in the year, 200 tenants of which each calls one
or two servers, fewer at night. Every device-hour is given away to the nanosecond, so that the
report's proof holds. The ledger has the rollups of all hours, days and weeks and no lines, as
after `retention`. Reports are timed by the wall clock, in one process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from sqlalchemy import Connection, insert

from apportion.core.category import Category, Phase, SpanKind
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.batch import ChargeKind, TickBatch
from apportion.cost.ledger.engine import WRITES
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.rollup_schema import rollup_meter_mark
from apportion.cost.report import report
from apportion.cost.report_data import report_csv
from apportion.cost.rollups.grains import Rolled
from apportion.cost.rollups.line_piece import COST
from apportion.cost.rollups.marks import Mark
from apportion.cost.rollups.meter_piece import METER, PART
from apportion.cost.rollups.span_piece import SPAN
from apportion.cost.rollups.spans import SpanSums
from apportion.cost.rollups.sources import GRAINS
from apportion.cost.testing import memory_ledger

YEAR_HOURS = 365 * 24
START_NS = 472_248 * NS_PER_HOUR - 472_248 * NS_PER_HOUR % (168 * NS_PER_HOUR)
WEEK = 168
SERVING, TRAINING = (1, 2, 3, 4, 5), (6, 7, 8)
SERVERS, TRAINERS, TENANTS = 20, 30, 200
ROUNDS = 7
CHARGE = int(ChargeKind.CHARGE)


class Year:
    """Who called which server, and who trained; entities as the ledger numbers them."""

    def __init__(self) -> None:
        random = self.random = Random(7)
        self.entities: list[tuple[object, ...]] = []
        self._server = [self._entity(f"server-{n:02}") for n in range(SERVERS)]
        self._callers: list[list[int]] = [[] for _ in range(SERVERS)]
        for tenant in range(TENANTS):
            server = tenant % SERVERS
            entity = self._entity(f"server-{server:02}", f"tenant-{tenant:03}", "llama-3.1-8b")
            self._callers[server].append(entity)
        self._trainer = [self._entity(f"trainer-{n:02}", run=f"run-{n}") for n in range(TRAINERS)]

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

    def shares(self, hour: int, device: int) -> Iterator[tuple[int, Category, int, int]]:
        """Of one device-hour: entity, category, phase, nanoseconds."""
        random, left_ns = self.random, NS_PER_HOUR
        if device in SERVING:
            server = (hour // (13 * WEEK) * len(SERVING) + device - 1) % SERVERS
            busy = 0.4 if 8 <= hour % 24 < 20 else 0.15
            callers = [entity for entity in self._callers[server] if random.random() < busy]
            for entity in callers:
                ns = random.randrange(1, NS_PER_HOUR // len(callers))
                yield entity, Category.DIRECT, int(Phase.PREFILL), ns // 5
                yield entity, Category.DIRECT, int(Phase.DECODE), ns - ns // 5
                left_ns -= ns
            yield self._server[server], Category.ALLOCATED_IDLE, 0, left_ns
            return
        trainer = self._trainer[(hour // (5 * WEEK) * len(TRAINING) + device - 6) % TRAINERS]
        for phase, parts in ((Phase.FORWARD, 30), (Phase.BACKWARD, 55), (Phase.OPTIMIZER, 10)):
            ns = NS_PER_HOUR * parts // 100
            yield trainer, Category.DIRECT, int(phase), ns
            left_ns -= ns
        yield trainer, Category.BETWEEN_STEPS, 0, left_ns


def run() -> dict[str, object]:
    """Seconds, and how many rows there are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with memory_ledger(path) as ledger:
            counts = fill(ledger)
            return {
                "rollup rows": counts,
                "file MB": path.stat().st_size / 1e6,
                "sqlite": measured(ledger),
            }


def measured(ledger: Ledger) -> dict[str, object]:
    """Several reports over the whole year."""
    found: dict[str, object] = {}
    for name, by in (
        ("by workload, tenant, day", ("workload", "tenant", "day")),
        ("by workload, tenant", ("workload", "tenant")),
        ("by category, device", ("category", "device")),
    ):
        times: list[float] = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            result = report(ledger, by=by)
            times.append(time.perf_counter() - start)
        assert result.proof.holds
        assert result.proof.metered.device_ns == 8 * YEAR_HOURS * NS_PER_HOUR
        found[name] = {
            "rows": len(result.rows),
            "s, median": statistics.median(times),
            "s, best": min(times),
        }
    return found


def fill(ledger: Ledger) -> dict[str, int]:
    """Write the year's rollups, week by week; how many rows of each length."""
    year = Year()
    batch = TickBatch()
    devices = (*SERVING, *TRAINING)
    batch.insert("method", [(1, "time-share/1")])
    batch.insert("device", [(key, f"GPU-{key}", "H100", "nvml", 0) for key in devices])
    batch.insert("device_group", [(key, str(key)) for key in devices])
    facts = ("USD", "gpu", "contract", "made up", "2023-11-01", None, None)
    batch.insert("rate", [(1, "H100", "3.60", str(NS_PER_HOUR), "1", *facts)])
    batch.insert("entity", year.entities)
    end_ns = START_NS + YEAR_HOURS * NS_PER_HOUR
    batch.replace("watermark", [(key, end_ns, START_NS, None, None) for key in devices])
    ledger.commit(batch)
    counts = dict.fromkeys((f"{hours} h" for hours in GRAINS), 0)
    writing = ledger._engine.connect().execution_options(**{WRITES: True})
    with writing as connection, connection.begin():
        for first in range(0, YEAR_HOURS, WEEK):
            hours = range(first, min(first + WEEK, YEAR_HOURS))
            for grains, rows in week_of(year, ledger.agent_id, hours):
                for length in GRAINS:
                    folded = grains.folded(rows, length)
                    counts[f"{length} h"] += len(folded)
                    grains._insert(connection, length, folded)
        finish(connection, ledger.agent_id, devices, end_ns)
    return counts


def week_of(year: Year, agent_id: int, hours: range) -> list[tuple[object, Rolled]]:
    cost, meter, part, spans = Rolled(), Rolled(), Rolled(), Rolled()
    for hour in hours:
        start_ns = START_NS + hour * NS_PER_HOUR
        for device in (*SERVING, *TRAINING):
            energy_mj = 400 * 3600 * 1000
            for entity, category, phase, ns in year.shares(hour, device):
                key = (agent_id, start_ns, entity, int(category), 0, phase, CHARGE, device, 1, 1)
                amounts = (ns, 0, ns, energy_mj * ns // NS_PER_HOUR)
                cost[key] = (1_000, *amounts)
                energy_mj_left = amounts[3]
                place = (agent_id, start_ns, device, int(category), 0, device)
                known = part.get(place, (0, 0, 0, 0))
                part[place] = tuple(a + b for a, b in zip(known, amounts, strict=True))
                if category is Category.DIRECT and phase in {Phase.PREFILL, Phase.FORWARD}:
                    kind = SpanKind.REQUEST if device in SERVING else SpanKind.STEP
                    sums = SpanSums(
                        spans=1_000,
                        tokens=None if kind is SpanKind.REQUEST else 8_192_000,
                        input_tokens=512_000,
                        output_tokens=64_000,
                        divided_input_tokens=512_000,
                        divided_output_tokens=64_000,
                        duration_ns=None if kind is SpanKind.REQUEST else NS_PER_HOUR,
                        unnumbered=1_000 if kind is SpanKind.STEP else 0,
                        unnumbered_charged=1_000 if kind is SpanKind.STEP else 0,
                        input_units=ns,
                        units=4 * ns,
                    )
                    spans[agent_id, start_ns, entity, int(kind)] = sums
                del energy_mj_left
            total = sum(v[3] for k, v in part.items() if k[1] == start_ns and k[2] == device)
            end_ns = start_ns + NS_PER_HOUR
            meter[agent_id, start_ns, device, 1, "energy_counter", 0] = (
                start_ns,
                end_ns,
                NS_PER_HOUR,
                0,
                NS_PER_HOUR,
                total,
            )
    return [(COST, cost), (METER, meter), (PART, part), (SPAN, spans)]


def finish(
    connection: Connection, agent_id: int, devices: tuple[int, ...], end_ns: int
) -> None:
    Mark(1, 0, 10**9, end_ns, end_ns, end_ns).store(connection, agent_id)
    rows = [{"agent_id": agent_id, "device_key": key, "rolled_ns": end_ns} for key in devices]
    connection.execute(insert(rollup_meter_mark), rows)
