"""A host made of plain data around a real settlement and a real ledger, for tests.

Processes write spans here as they would into rings; the agent can die and come back at any
moment. Times are host monotonic nanoseconds unless a name says node time.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from fractions import Fraction
from typing import Any

import numpy as np
from sqlalchemy import Connection

from apportion.agent.ingest import RECORD, Identity, RingIdentity
from apportion.agent.metrics.labels import LabelFolder
from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.node_time import NodeTime
from apportion.agent.pipeline.open_root import OpenRoot
from apportion.agent.pipeline.ring_state import RingState
from apportion.agent.pipeline.settlement import Settlement
from apportion.agent.pipeline.tick import TickOutcome
from apportion.client import layout
from apportion.core.allocation import Pod
from apportion.core.category import Phase, PhaseClock, SpanKind, SpanStatus
from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerUnavailable
from apportion.core.ids import DeviceId, RingId
from apportion.core.interval import Interval
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, Millijoules, MonotonicNs
from apportion.cost.ledger.batch import Row, TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.tables import metadata
from apportion.cost.rate import Rate

_LIMITS: dict[str, int] = dict.fromkeys(("workload", "run", "tenant", "model", "pod"), 20)
SECOND = NS_PER_SECOND
H100 = "NVIDIA H100 80GB HBM3"
DOLLARS = 10**12


def rate(units_per_hour: Fraction | int, name: str = H100, **changes: object) -> Rate:
    """A price of a device by that name."""
    facts = {
        "device_name": name,
        "units_per_hour": Fraction(units_per_hour),
        "per_hour": str(units_per_hour),
        "currency": "USD",
        "covers": "gpu",
        "basis": "contract",
        "source": "a test",
        "as_of": date(2026, 1, 1),
        **changes,
    }
    return Rate(**facts)  # type: ignore[arg-type]


class Crash(Exception):
    """The agent died."""


class FaultyLedger(Ledger):
    """A ledger in memory that fails at a statement of the next commit, or 'crashes' after it."""

    fail_at: int | None = None
    crash_after: bool = False

    def commit(self, batch: TickBatch) -> None:
        """See `Ledger`."""
        super().commit(batch)
        self.fail_at = None
        if self.crash_after:
            self.crash_after = False
            raise Crash

    def _many(
        self, connection: Connection, table: str, statement: str, values: Sequence[Row]
    ) -> None:
        if values and self.fail_at is not None:
            self.fail_at -= 1
            if self.fail_at < 0:
                self.fail_at = None
                raise LedgerUnavailable("full")
        super()._many(connection, table, statement, values)


@dataclass
class Span:
    """The truth about one span."""

    number: int
    kind: SpanKind
    start_ns: int
    parent: int = 0
    scheduled_ns: int = 0
    first_token_ns: int = 0
    end_ns: int = 0
    status: SpanStatus = SpanStatus.OK
    phase: Phase = Phase.NONE
    sequence: int = 0
    step: int = -1
    tokens: tuple[int, int] = (-1, -1)
    trained: int = -1
    """Training tokens."""
    requests: tuple[int, int] = (-1, -1)
    """Of an engine iteration: how many were in prefill and in decode."""
    cached: int = -1
    flags: int = 0
    engine: int = 0
    request_id: str = ""
    told_later: bool = False


@dataclass
class Process:
    """A process that writes one ring."""

    name: str
    ring: RingId
    start_ns: int | None
    created_ns: int
    workload: str
    boot: str
    model: str | None = None
    """What its requests say."""
    said: Identity = field(default_factory=Identity)
    """What else it says of itself."""
    spans: dict[int, Span] = field(default_factory=dict[int, Span])
    open: dict[int, Span] = field(default_factory=dict[int, Span])
    written: list[Span] = field(default_factory=list[Span])
    """Ended, by sequence: index + 1."""
    dead_ns: int | None = None
    state: RingState | None = None
    """What the agent has of it now."""
    delivered: set[int] = field(default_factory=set[int])
    """Sequences that the living agent has read."""
    lost: set[int] = field(default_factory=set[int])
    """Sequences that were overwritten before they were read."""
    reported_dead: bool = False

    def start(self, kind: SpanKind, now_ns: int, *, parent: int = 0, **said: object) -> Span:
        """A span begins."""
        span = Span(len(self.spans) + 1, kind, now_ns, parent)
        for name, value in said.items():
            setattr(span, name, value)
        self.spans[span.number] = span
        self.open[span.number] = span
        return span

    def iterate(
        self,
        index: int,
        start_ns: int,
        end_ns: int,
        *counts: int,
        exact: bool = False,
        engine: int = 0,
    ) -> Span:
        """An engine iteration of prefill requests and tokens, and decode requests and tokens."""
        one = self.start(SpanKind.ITERATION, start_ns, step=index, engine=engine)
        one.requests, one.tokens = (counts[0], counts[2]), (counts[1], counts[3])
        one.flags = layout.FLAG_EXACT if exact else 0
        return self.finish(one, end_ns)

    def schedule(self, name: str, first: int, count: int, tokens: int, context: int) -> Span:
        """A request was in `count` iterations from `first` on; not finished yet."""
        one = self.start(SpanKind.SCHEDULED, 0, step=first, request_id=name)
        one.requests, one.tokens, one.cached = (count, -1), (tokens, -1), context
        return one

    def finish(self, span: Span, now_ns: int) -> Span:
        """A span ends and its record is written."""
        del self.open[span.number]
        span.end_ns = now_ns
        self.written.append(span)
        span.sequence = len(self.written)
        return span


class World:
    """One host: its clock, devices, processes, and one agent with its ledger."""

    def __init__(
        self,
        rates: Sequence[Rate] = (),
        *,
        devices: int = 1,
        device_name: str = H100,
        realtime_ns: int = 1_780_000_200 * SECOND,
        monotonic_ns: int = 1_000 * SECOND,
        currency: str = "USD",
        sample_period_ns: int = SECOND,
    ) -> None:
        self.sample_period_ns = sample_period_ns
        self.clock = ManualClock(monotonic_ns, realtime_ns)
        self.boots = 0
        self.rates = list(rates)
        self.ledger = FaultyLedger.open(
            "sqlite://",
            node="n",
            cluster=None,
            currency=currency,
            version="test",
            clock=self.clock,
        )
        assert isinstance(self.ledger, FaultyLedger)
        self.infos = [
            DeviceInfo(DeviceId(f"GPU-{index}"), device_name, index, "nvml")
            for index in range(devices)
        ]
        self.energy_mj = dict.fromkeys((info.device for info in self.infos), 7_000)
        self.processes: dict[str, Process] = {}
        self.energy_source = "energy_counter"
        self.users: list[str] = []
        self.holders: list[str] = []
        self.pods: dict[str, Pod] = {}
        """By device: the pod that alone holds it."""
        self.ticks = 0
        self.settlement = self.boot_agent()

    # -- the agent -------------------------------------------------------------------------------
    @property
    def boot(self) -> str:
        """The boot id, 32 digits."""
        return f"{self.boots:032x}"

    @property
    def now_ns(self) -> int:
        """Host monotonic time."""
        return self.clock.monotonic_ns()

    def node(self, monotonic_ns: int) -> int:
        """Node time."""
        return self.time.of(monotonic_ns)

    def boot_agent(self, *, owns: bool = True) -> Settlement:
        """A new agent on the ledger as it is; it may find out later that it owns its devices."""
        state = self.ledger.load_state(0)
        self.time = NodeTime.of_ledger(self.boot, self.clock, state)
        self.settlement = Settlement(
            state,
            time=self.time,
            folder=LabelFolder(_LIMITS),
            rates_of=lambda name: [rate for rate in self.rates if rate.device_name == name],
            users_of=lambda _device: [
                self.settlement.entity(EntityKey(owner=owner)) for owner in self.users
            ],
            holders_of=lambda _device: [
                self.settlement.entity(EntityKey(owner=owner)) for owner in self.holders
            ],
            pod_of=self.pods.get,
            lateness_ns=2 * SECOND,
            sample_period_ns=self.sample_period_ns,
        )
        positions: dict[int, str] = {row[0]: row[1] for row in state.tables["ring_position"]}
        keys = {row[1]: row[0] for row in state.tables["ring"]}
        for process in self.processes.values():
            process.state = None
            process.reported_dead = False
            process.delivered = self._delivered(positions.get(keys.get(process.ring, 0), ""))
        for device in self.settlement.metered.remembered if owns else ():
            self.settlement.resume(device, self.node(self.now_ns))
        return self.settlement

    @staticmethod
    def _delivered(position: str) -> set[int]:
        import json  # noqa: PLC0415

        return set(json.loads(position).get("delivered", [])) if position else set()

    def reboot(self, down_ns: int) -> None:
        """The host restarts: monotonic time starts again, rings are gone."""
        realtime_ns = self.clock.realtime_ns() + down_ns
        self.clock = ManualClock(5 * SECOND, realtime_ns)
        self.ledger.clock = self.clock
        self.boots += 1
        self.processes = {}
        self.energy_mj = dict.fromkeys(self.energy_mj, 3)
        self.boot_agent()

    def tick(self, *, polled_ns: int | None = None) -> TickOutcome | None:
        """Poll what is open, then tick; None where the ledger failed. A crash restarts."""
        moved = self.time.observe(self.clock)
        if moved is not None:
            self.settlement.wall_moved(*moved)
        for process in self.processes.values():
            self.poll(process)
        now_ns = self.node(self.now_ns)
        limit_ns = now_ns if polled_ns is None else self.node(polled_ns)
        self.ticks += 1
        try:
            return self.settlement.tick(now_ns, limit_ns, self.ledger)
        except LedgerUnavailable:
            return None
        except Crash:
            self.boot_agent()
            return None

    def run(
        self, duration_ns: int, *, utilization: float | None = None, used_mj: int = 500
    ) -> None:
        """Let time pass: a reading a second, a tick every five, everything delivered."""
        end_ns = self.now_ns + duration_ns
        second = 0
        while self.now_ns < end_ns:
            self.clock.advance(min(SECOND, end_ns - self.now_ns))
            second += 1
            self.read_all(utilization, used_mj)
            for process in self.processes.values():
                self.deliver(process)
                self.poll(process)
            if second % 5 == 0:
                self.tick()

    def settle(self) -> None:
        """Let all that happened so far be settled."""
        self.run(10 * SECOND, utilization=0.0)

    # -- devices -----------------------------------------------------------------------------------
    def read(self, index: int, utilization: float | None = None, used_mj: int = 500) -> None:
        """A reading of one device."""
        info = self.infos[index]
        self.energy_mj[info.device] += used_mj
        self.settlement.read(
            info,
            Reading(
                info.device,
                MonotonicNs(self.now_ns),
                energy_mj=Millijoules(self.energy_mj[info.device]),
                energy_source=self.energy_source,
                utilization_ratio=utilization,
            ),
        )

    def read_all(self, utilization: float | None = None, used_mj: int = 500) -> None:
        """A reading of every device."""
        for index in range(len(self.infos)):
            self.read(index, utilization, used_mj)

    def device_keys(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Keys of devices."""
        return tuple(self.settlement.metered.key(self.infos[index]) for index in indices)

    # -- processes ---------------------------------------------------------------------------------
    def process(
        self,
        name: str,
        devices: Sequence[int] | None = (0,),
        *,
        started_ns: int | None = None,
        run: str | None = None,
        said: Identity | None = None,
    ) -> Process:
        """A process makes its ring, and the agent attaches it."""
        ring = RingId(f"{len(self.processes) + 1000 * self.boots + 1:032x}")
        process = Process(name, ring, started_ns, self.now_ns, run or name, self.boot)
        process.said = said or process.said
        self.processes[name] = process
        self.attach(process)
        if devices is not None:
            self.bind(process, devices)
        return process

    def attach(self, process: Process) -> RingState:
        """The agent finds the ring, for the first time or again."""
        if process.state is None:
            process.state = self.settlement.attach(
                RingIdentity(
                    process.ring,
                    1234,
                    1234,
                    1000,
                    process.boot,
                    process.created_ns,
                    process.start_ns,
                    None,
                    0,
                    1024,
                    replace(process.said, workload=process.workload),
                )
            )
        return process.state

    def bind(self, process: Process, devices: Sequence[int]) -> None:
        """The agent learns which devices the process uses."""
        state = self.attach(process)
        keys = self.device_keys(devices)
        self.settlement.bound(state, keys, "user", self.node(self.now_ns))

    def poll(self, process: Process) -> None:
        """The agent looks at what is open."""
        state = self.attach(process)
        if process.reported_dead:
            return
        seen = [
            self._open_root(process, span) for span in process.open.values() if span.parent == 0
        ]
        self.settlement.observe(state, seen)
        gone = {process.written[sequence - 1].number for sequence in process.lost}
        for number in gone & state.open.keys():
            self.settlement.vanished(state, number)

    def _open_root(self, process: Process, span: Span) -> OpenRoot:
        def node(time_ns: int) -> int:
            return self.node(time_ns) if time_ns else 0

        seen_ns = self.now_ns
        if process.dead_ns is not None:
            ended = [process.written[number - 1].end_ns for number in process.delivered]
            seen_ns = max(span.start_ns, span.scheduled_ns, span.first_token_ns, *ended, 0)
        return OpenRoot(
            span.number,
            span.kind,
            self._entity(process),
            node(span.start_ns),
            node(span.scheduled_ns),
            node(span.first_token_ns),
            self.node(seen_ns),
            span.step,
            told_later=span.told_later,
        )

    def _entity(self, process: Process) -> int:
        said = process.said
        who = EntityKey(process.workload, said.run, said.attempt, model=process.model)
        return self.settlement.entity(who)

    def deliver(self, process: Process, sequences: Sequence[int] | None = None) -> int:
        """The agent reads records: these, or all that it has not read yet. How many."""
        state = self.attach(process)
        waiting = [
            span
            for span in process.written
            if span.sequence not in process.delivered
            and span.sequence not in process.lost
            and (sequences is None or span.sequence in sequences)
        ]
        if not waiting:
            return 0
        highest = max(process.delivered, default=0)
        late = np.array([span.sequence < highest for span in waiting])
        entity = self._entity(process)
        records = records_of(waiting)
        self.settlement.absorb(state, records, late, lambda _tenant, _model, _adapter: entity)
        process.delivered.update(span.sequence for span in waiting)
        delivered = ",".join(map(str, sorted(process.delivered)))
        position = f'{{"read":0,"delivered":[{delivered}]}}'
        self.settlement.position(state, position)
        return len(waiting)

    def lose(self, process: Process, spans: Sequence[Span]) -> None:
        """Records are overwritten before the agent has read them; it notices at once."""
        process.lost.update(span.sequence for span in spans)
        start_ns = min(span.start_ns for span in spans)
        window = Interval(self.node(start_ns), self.node(max(span.end_ns for span in spans)))
        self.settlement.lost(self.attach(process), window)
        self.poll(process)

    def die(self, process: Process) -> None:
        """The process is killed; the agent does not know yet."""
        process.dead_ns = self.now_ns

    def report_death(self, process: Process, *, closed: bool = False) -> None:
        """The agent has read a dead process's ring to its end; `closed`: it said that it ended."""
        state = self.attach(process)
        self.deliver(process)
        self.poll(process)
        self.settlement.ended(state, self.node(self.now_ns), closed=closed)
        process.reported_dead = True

    # -- the book ----------------------------------------------------------------------------------
    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table of the ledger."""
        with self.ledger.read() as connection:
            rows = connection.execute(metadata.tables[table].select())
            return [dict(row._mapping) for row in rows]

    def sums(self, column: str = "device_ns") -> dict[str, int]:
        """Everything that was posted or runs, by category and entity, e.g. `direct llm`."""
        from apportion.core.category import Category  # noqa: PLC0415

        entities = {row["entity_key"]: row for row in self.rows("entity")}
        result: dict[str, int] = {}
        for row in [*self.rows("charge"), *self.rows("accrual")]:
            entity = entities.get(row["entity_key"], {})
            name = entity.get("workload") or entity.get("owner") or ""
            key = f"{Category(row['category']).label} {name}".strip()
            result[key] = result.get(key, 0) + (row[column] or 0)
        return {key: value for key, value in result.items() if value}


def records_of(spans: Sequence[Span]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Ring records of ended spans."""
    records = np.zeros(len(spans), RECORD)
    for name in (*layout.COUNTERS, "step"):
        records[name] = layout.ABSENT
    for record, span in zip(records, spans, strict=True):
        record["sequence"], record["number"], record["parent"] = (
            span.sequence,
            span.number,
            span.parent,
        )
        record["packed"] = (
            int(span.kind)
            | int(span.status) << layout.STATUS_SHIFT
            | int(span.phase) << layout.PHASE_SHIFT
            | int(PhaseClock.HOST) << layout.CLOCK_SHIFT
            | span.flags << layout.FLAGS_SHIFT
        )
        record["start_ns"], record["end_ns"] = span.start_ns, span.end_ns
        record["scheduled_ns"], record["first_token_ns"] = span.scheduled_ns, span.first_token_ns
        record["step"], record["engine"] = span.step, span.engine
        record["input_tokens"], record["output_tokens"] = span.tokens
        record["cached_input_tokens"] = span.cached
        record["tokens"] = span.trained
        text = span.request_id.encode()
        record["request_id"] = bytes([len(text), 0]) + text.ljust(62, b"\0")
        record["samples"], record["micro_batches"] = span.requests
    return records


@contextmanager
def failing(world: World, statement: int) -> Generator[None]:
    """The next commit fails at that statement."""
    world.ledger.fail_at = statement
    yield
    world.ledger.fail_at = None


HOUR = NS_PER_HOUR
