"""Everything at once: late records, holes, crashes, reboots, deaths. The book must come out right.

What is known at the end is compared with an oracle that knew it from the start.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.agent.pipeline.oracle import Claim, Due, Payer, Ring, claims, due
from tests.agent.pipeline.world import DOLLARS, SECOND, Process, Span, World, rate

from apportion.agent.ingest import Identity
from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.core.ids import AttemptId, RunId
from apportion.cost.audit import audit, audit_text

ALWAYS = 1 << 62
PRICES = [Fraction(3_600 * DOLLARS), Fraction(2_490_000_000_001), Fraction(98_320_000_000_000, 7)]
ROOTS = [SpanKind.REQUEST, SpanKind.STEP, SpanKind.CHECKPOINT, SpanKind.EVALUATION]
PAUSES = st.sampled_from([1, 20_000_000, 700_000_000, SECOND, 3 * SECOND, 8 * SECOND])
GROUPS = st.sampled_from([(0,), (1,), (0, 1)])
PICK = st.integers(0, 1 << 16)


class SettlementMachine(RuleBasedStateMachine):
    """One host, two devices, some processes, one agent that may die."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: list[Process] = []
        self.posted: dict[int, tuple[Any, ...]] = {}
        self.counters: dict[str, int] = {}
        self.readings: dict[int, list[tuple[int, int, int]]] = {0: [], 1: []}
        self.committed = {0: 0, 1: 0}
        self.attempts: list[list[Process]] = []
        """The run's processes, by attempt; all of one are dead when the next begins."""
        self.next_step: dict[str, int] = {}

    @initialize(price=st.sampled_from(PRICES))
    def begin(self, price: Fraction) -> None:
        """A host with two priced devices, 200 seconds before the hour."""
        start_ns = 1_780_002_000 * SECOND - 200 * SECOND
        self.world = World([rate(price)], devices=2, realtime_ns=start_ns)
        self._read(0, 0.5)
        self._read(1, 0.0)
        self.a_process_starts((0, 1), 5 * SECOND)
        self.the_run_restarts((0,), 2, kept=0, said=False, noticed=False, steps=3)

    # -- time and telemetry --------------------------------------------------------------------
    @rule(pause=PAUSES)
    def time_passes(self, pause: int) -> None:
        self.world.clock.advance(pause)

    @rule(seconds=st.integers(1, 12), utilization=st.sampled_from([0.0, 0.02, 0.9, None]))
    def readings_come(self, seconds: int, utilization: float | None) -> None:
        for _ in range(seconds):
            self.world.clock.advance(SECOND)
            self._read(0, utilization)
            self._read(1, 0.0)

    @rule(device=st.integers(0, 1))
    def one_device_is_read(self, device: int) -> None:
        self.world.clock.advance(1)
        self._read(device, 0.3)

    @rule(
        fault=st.sampled_from(
            ["silence", "counter reset", "clock", "price", "no price", "reboot", "crash", "crash"]
        ),
        number=st.integers(0, 5),
    )
    def something_goes_wrong(self, fault: str, number: int) -> None:
        world = self.world
        if fault == "silence":
            world.clock.advance([60 * SECOND, 1_300 * SECOND][number % 2])
        elif fault == "counter reset":
            world.energy_mj[world.infos[number % 2].device] = 11
        elif fault == "clock":
            step = [-3_600 * SECOND, -1, 5 * SECOND, 7_200 * SECOND][number % 4]
            world.clock.step_realtime(step)
        elif fault == "reboot":
            self.gone += world.processes.values()
            world.reboot([2 * SECOND, 600 * SECOND][number % 2])
            self._restarted()
        else:
            if fault == "price":
                world.rates = [rate(PRICES[number % len(PRICES)])]
            elif fault == "no price":
                world.rates = []
            world.boot_agent()
            self._restarted()

    @rule(
        pick=PICK,
        kind=st.sampled_from([SpanKind.REQUEST, SpanKind.STEP, SpanKind.STEP]),
        pause=PAUSES,
        seconds=st.integers(0, 4),
        read=st.sampled_from([True, True, False]),
    )
    def work_is_done(self, pick: int, kind: SpanKind, pause: int, seconds: int, read: bool) -> None:
        """A span from start to end, seen open on the way, and a little pause."""
        if not self._living():
            return
        process = self._living()[pick % len(self._living())]
        span = self._start(process, kind)
        self.readings_come(seconds, 0.5)
        self.world.poll(process)
        self.world.clock.advance(pause)
        process.finish(span, self.world.now_ns)
        self.world.clock.advance(pause // 3)
        if read:
            self.world.deliver(process)

    def _read(self, device: int, utilization: float | None) -> None:
        world = self.world
        world.read(device, utilization, used_mj=313)
        raw_mj = world.energy_mj[world.infos[device].device]
        self.readings[device].append((world.node(world.now_ns), raw_mj, world.boots))

    # -- processes -----------------------------------------------------------------------------
    @precondition(lambda self: len(self.world.processes) < 4)
    @rule(group=st.none() | GROUPS, age=st.none() | st.sampled_from([0, 5 * SECOND, 90 * SECOND]))
    def a_process_starts(self, group: tuple[int, ...] | None, age: int | None) -> None:
        world = self.world
        started_ns = None if age is None else max(1, world.now_ns - age)
        world.process(f"p{len(world.processes) + len(self.gone)}", group, started_ns=started_ns)

    @precondition(lambda self: len(self.attempts) < 4)
    @rule(
        group=GROUPS,
        ranks=st.integers(1, 2),
        kept=st.integers(0, 1 << 16),
        said=st.booleans(),
        noticed=st.booleans(),
        steps=st.integers(0, 4),
    )
    def the_run_restarts(
        self, group: tuple[int, ...], ranks: int, kept: int, said: bool, noticed: bool, steps: int
    ) -> None:
        """What lives of the run is killed, and another attempt goes on from some step."""
        world, number = self.world, len(self.attempts)
        for process in self.attempts[-1] if self.attempts else ():
            if process.dead_ns is None:
                world.die(process)
            if noticed and process.name in world.processes and not process.reported_dead:
                world.report_death(process)
        world.clock.advance(SECOND)
        reached = max(self.next_step.values(), default=0)
        resumed = kept % (reached + 1) - 1
        identity = Identity(
            run=RunId("the run"),
            attempt=AttemptId(str(number)),
            restart_count=number,
            resumed_from_step=resumed if said and resumed >= 0 else None,
        )
        self.attempts.append([])
        for rank in range(ranks):
            process = world.process(
                f"rank {number}.{rank}",
                group,
                started_ns=world.now_ns,
                run="trainer",
                said=replace(identity, rank=rank),
            )
            self.attempts[-1].append(process)
            self.next_step[process.name] = resumed + 1
        for _ in range(steps):
            spans = [(one, self._start(one, SpanKind.STEP)) for one in self.attempts[-1]]
            self.readings_come(1, 0.7)
            for one, span in spans:
                one.finish(span, world.now_ns)
            world.clock.advance(SECOND // 5)

    def _start(self, process: Process, kind: SpanKind, *, scheduled_ns: int = 0) -> Span:
        """A span; a step of the run has a number."""
        step = -1
        if kind is SpanKind.STEP and process.name in self.next_step:
            step = self.next_step[process.name]
            self.next_step[process.name] += 1
        return process.start(kind, self.world.now_ns, scheduled_ns=scheduled_ns, step=step)

    @precondition(lambda self: self._living())
    @rule(pick=PICK, group=GROUPS)
    def a_ring_is_bound(self, pick: int, group: tuple[int, ...]) -> None:
        self.world.bind(self._living()[pick % len(self._living())], group)

    @precondition(lambda self: self._living())
    @rule(pick=PICK, kind=st.sampled_from(ROOTS), admitted=st.booleans())
    def a_span_starts(self, pick: int, kind: SpanKind, admitted: bool) -> None:
        process = self._living()[pick % len(self._living())]
        scheduled_ns = self.world.now_ns if admitted and kind is SpanKind.REQUEST else 0
        self._start(process, kind, scheduled_ns=scheduled_ns)

    @precondition(lambda self: self._open_roots())
    @rule(pick=PICK)
    def a_request_is_admitted(self, pick: int) -> None:
        _, span = self._open_roots()[pick % len(self._open_roots())]
        if span.kind is SpanKind.REQUEST and not span.scheduled_ns:
            span.scheduled_ns = self.world.now_ns

    @precondition(lambda self: self._open_roots())
    @rule(pick=PICK, phase=st.sampled_from([Phase.FORWARD, Phase.BACKWARD, Phase.CONSTRAIN]))
    def a_phase_ends(self, pick: int, phase: Phase) -> None:
        process, root = self._open_roots()[pick % len(self._open_roots())]
        inner = process.start(SpanKind.PHASE, root.start_ns, parent=root.number, phase=phase)
        process.finish(inner, self.world.now_ns)

    @precondition(lambda self: self._open_roots())
    @rule(pick=PICK, ago=st.sampled_from([0, 0, 1, 50_000_000]), first_token=st.booleans())
    def a_span_ends(self, pick: int, ago: int, first_token: bool) -> None:
        process, span = self._open_roots()[pick % len(self._open_roots())]
        now_ns = self.world.now_ns
        end_ns = max(span.start_ns, span.scheduled_ns, now_ns - ago)
        if first_token and span.kind is SpanKind.REQUEST:
            span.first_token_ns = (max(span.start_ns, span.scheduled_ns) + end_ns) // 2
        process.finish(span, end_ns)

    @rule(pick=PICK, hole=st.none() | PICK)
    def records_are_read(self, pick: int, hole: int | None) -> None:
        """All but one; the hole comes later, or never."""
        if not self.world.processes:
            return
        process = list(self.world.processes.values())[pick % len(self.world.processes)]
        waiting = [s.sequence for s in process.written if s.sequence not in process.delivered]
        if hole is not None and waiting:
            del waiting[hole % len(waiting)]
        self.world.deliver(process, waiting)

    @precondition(lambda self: self._living())
    @rule(pick=PICK)
    def records_are_overwritten(self, pick: int) -> None:
        if pick % 3:
            return
        process = self._living()[pick % len(self._living())]
        lost = [
            span
            for span in process.written
            if span.sequence not in process.delivered | process.lost
        ]
        if lost:
            self.world.lose(process, lost)

    @precondition(lambda self: self._living())
    @rule(pick=PICK, noticed=st.booleans())
    def a_process_dies(self, pick: int, noticed: bool) -> None:
        process = self._living()[pick % len(self._living())]
        self.world.die(process)
        if noticed:
            self.world.report_death(process)

    def _living(self) -> list[Process]:
        return [p for p in self.world.processes.values() if p.dead_ns is None]

    def _open_roots(self) -> list[tuple[Process, Span]]:
        return [
            (process, span)
            for process in self._living()
            for span in process.open.values()
            if span.parent == 0
        ]

    # -- the agent -----------------------------------------------------------------------------
    @rule()
    def the_agent_ticks(self) -> None:
        self._tick()

    @rule(statement=st.integers(0, 16))
    def the_ledger_fails(self, statement: int) -> None:
        self.world.ledger.fail_at = statement
        self._tick()
        self.world.ledger.fail_at = None

    @rule()
    def the_agent_dies_after_a_commit(self) -> None:
        self.world.ledger.crash_after = True
        self._tick()
        self._restarted()

    def _restarted(self) -> None:
        self.counters = {}
        for device, number in self.committed.items():
            del self.readings[device][number:]

    def _tick(self) -> None:
        world = self.world
        before = len(world.rows("settlement"))
        crashing = world.ledger.crash_after
        outcome = world.tick()
        if outcome is not None or (crashing and len(world.rows("settlement")) >= before):
            self.committed = {device: len(rows) for device, rows in self.readings.items()}
        if outcome is not None:
            assert outcome.residual == (0, 0)
            self._counters_rise()
        self.nothing_posted_changes()
        self.the_book_is_right()

    def _counters_rise(self) -> None:
        totals = self.world.settlement.totals
        now = {str(key): spend.device_ns for key, spend in totals.spend.items()}
        now |= {f"units {key}": spend.units or 0 for key, spend in totals.spend.items()}
        now |= {f"phase {key}": spend.device_ns for key, spend in totals.phases.items()}
        for counter in (totals.moved, totals.requests, totals.steps, totals.tokens):
            now |= {str(key): value for key, value in counter.items()}
        for name, value in self.counters.items():
            assert now[name] >= value, name
        self.counters = now

    # -- what must hold ------------------------------------------------------------------------
    def nothing_posted_changes(self) -> None:
        now = {row["charge_key"]: tuple(row.values()) for row in self.world.rows("charge")}
        assert now.items() >= self.posted.items()
        self.posted = now

    def the_book_is_right(self) -> None:
        result = audit(self.world.ledger)
        assert result.holds, audit_text(result)

    def teardown(self) -> None:
        """Let everything become known and settled, then compare with the oracle."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.ledger.fail_at, world.ledger.crash_after = None, False
        for _ in range(3):
            for process in world.processes.values():
                if process.dead_ns is not None and not process.reported_dead:
                    world.report_death(process)
                world.deliver(process)
            self.readings_come(5, 0.0)
            self._tick()
        self._every_span_is_there_once()
        self._everybody_pays_what_is_due()
        self._what_was_in_vain_is_lost()
        self._energy_is_the_counters()

    def _every_span_is_there_once(self) -> None:
        world = self.world
        rows = {(row["ring_key"], row["number"]): row for row in world.rows("span")}
        for process in world.processes.values():
            assert process.state is not None
            for span in process.written:
                row = rows.get((process.state.key, span.number))
                if span.sequence in process.lost:
                    assert row is None or row["status"] == SpanStatus.OPEN
                else:
                    assert row is not None, span
                    assert row["sequence"] == span.sequence
                    assert row["end_ns"] == world.node(span.end_ns)

    def _what_was_in_vain_is_lost(self) -> None:
        """A run's steps are direct cost where its last state contains them, and lost where not."""
        world = self.world
        keys = {row["ring"]: row["ring_key"] for row in world.rows("ring")}
        spans = {(row["ring_key"], row["number"]): row for row in world.rows("span")}
        # A step whose record was overwritten, and that no poll saw open, is known to nobody.
        known = {(row["ring_key"], row["step"]) for row in spans.values()}
        known |= {
            (ring.key, span.step)
            for ring in world.settlement.rings.values()
            for span in ring.open.values()
        }
        began: list[int] = []
        for processes in self.attempts:
            mine = {keys[process.ring] for process in processes if process.ring in keys}
            steps = [
                step for ring, step in known if ring in mine and step is not None and step >= 0
            ]
            # What a ring said that was gone before the first commit is known to nobody either.
            said = [p.said.resumed_from_step for p in processes if p.ring in keys]
            resumed = [step + 1 for step in said if step is not None]
            began.append(min([*resumed, *steps], default=ALWAYS))
        expected: dict[tuple[int, bool], list[int]] = defaultdict(lambda: [0, 0, 0])
        found: dict[tuple[int, bool], list[int]] = defaultdict(lambda: [0, 0, 0])
        kept_below = {
            keys[process.ring]: min(began[number + 1 :], default=ALWAYS)
            for number, processes in enumerate(self.attempts)
            for process in processes
            if process.ring in keys
        }
        for row in world.rows("charge"):
            ring, number, category = row["ring_key"], row["number"], row["category"]
            if ring not in kept_below or category not in {Category.DIRECT, Category.LOST}:
                continue
            amounts = [row[name] or 0 for name in ("device_ns", "units", "energy_mj")]
            sums = found[ring, category == Category.LOST]
            sums[:] = [one + other for one, other in zip(sums, amounts, strict=True)]
            if number is not None:
                # Charged for an hour that is over, an open span has no row yet.
                span = spans.get((ring, number), {"kind": None, "status": None, "step": None})
                vain = span["status"] == SpanStatus.LOST or (span["step"] or 0) >= kept_below[ring]
                sums = expected[ring, span["kind"] == SpanKind.STEP and vain]
                sums[:] = [one + other for one, other in zip(sums, amounts, strict=True)]
        for place in {*expected, *found}:
            assert found[place] == expected[place], (place, kept_below, began)

    def _rings(self) -> list[Ring]:
        world = self.world
        groups = {
            row["group_key"]: [int(key) for key in row["device_keys"].split(",")]
            for row in world.rows("device_group")
        }
        bindings: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row in sorted(world.rows("binding"), key=lambda row: row["since_ns"]):
            bindings[row["ring_key"]].append((row["since_ns"], row["group_key"]))
        positions = {row["ring_key"]: row for row in world.rows("ring_position")}
        entities = {
            (row["workload"], row["run"], row["attempt"]): row["entity_key"]
            for row in world.rows("entity")
        }
        rings: list[Ring] = []
        for row in world.rows("ring"):
            key = row["ring_key"]
            position = positions[key]
            state = json.loads(position["position"])["settlement"]
            said, first_ns = json.loads(row["identity"]), position["first_root_ns"]
            startup = None
            if row["process_start_ns"] is not None and first_ns is not None:
                startup = (row["process_start_ns"], first_ns)
            known = bindings[key]
            edges = [-ALWAYS, *(since for since, _ in known[1:]), ALWAYS]
            spells = [
                (edges[index], edges[index + 1], groups[group])
                for index, (_, group) in enumerate(known)
            ]
            entity = entities[said["workload"], said["run"], said["attempt"]]
            rings.append(Ring(key, entity, startup, state["admits_from"], spells))
        return rings

    def _everybody_pays_what_is_due(self) -> None:
        world = self.world
        spans: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in world.rows("span"):
            spans[row["ring_key"]].append(row)
        found: list[Claim] = []
        for ring in self._rings():
            state = world.settlement.rings.get(ring.key)
            running = [
                (span.number, span.kind, *span.claim(admits=ring.admits_from is not None))
                for span in (state.open.values() if state is not None else ())
            ]
            found += claims(ring, spans[ring.key], running)
        rates = {
            row["rate_key"]: Fraction(int(row["numerator"]), int(row["denominator"]))
            for row in world.rows("rate")
        }
        settlements = world.rows("settlement")
        expected = due(found, settlements, rates)
        paid: dict[Payer, list[int]] = defaultdict(lambda: [0, 0])
        for row in [*world.rows("charge"), *world.rows("accrual")]:
            category = Category(row["category"])
            if row["number"]:
                payer = Payer(None, row["ring_key"], row["number"], 0)
            elif category in {Category.BETWEEN_STEPS, Category.STARTUP}:
                payer = Payer(category, 0, 0, row["entity_key"])
            else:
                continue
            paid[payer][0] += row["device_ns"]
            paid[payer][1] += row["units"] or 0
        tolerance = 2 * (len(settlements) + world.ticks)
        for payer in {*expected, *paid}:
            owed = expected.get(payer, Due(Fraction(0), Fraction(0)))
            device_ns, units = paid[payer]
            assert abs(device_ns - owed.device_ns) <= tolerance, (payer, device_ns, owed)
            assert abs(units - owed.units) <= tolerance, (payer, units, owed)

    def _energy_is_the_counters(self) -> None:
        world = self.world
        keys = {row["device"]: row["device_key"] for row in world.rows("device")}
        for index, readings in self.readings.items():
            key = keys[world.infos[index].device]
            rows = [row for row in world.rows("settlement") if row["device_key"] == key]
            settled_ns = max(row["end_ns"] for row in rows)
            expected_mj, last = 0, readings[0]
            for reading in readings[1:]:
                if reading[0] > settled_ns:
                    break
                fresh = reading[2] != last[2] or reading[1] < last[1]
                expected_mj += reading[1] if fresh else reading[1] - last[1]
                last = reading
            assert last[0] == settled_ns
            assert sum(row["energy_mj"] or 0 for row in rows) == expected_mj


TestSettlement = pytest.mark.timeout(600)(SettlementMachine.TestCase)
TestSettlement.settings = settings(
    max_examples=settings().max_examples // 8,  # a second each; every run draws others
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_a_rank_that_is_read_after_its_attempt_hung() -> None:
    """The waiting of an attempt is posted once, whoever turns out to have been of it."""
    machine = SettlementMachine()
    machine.begin(price=PRICES[0])
    machine.something_goes_wrong(fault="no price", number=0)
    machine.a_process_dies(pick=173, noticed=True)
    machine.the_run_restarts((0, 1), 1, kept=4586, said=False, noticed=False, steps=0)
    machine.a_span_starts(pick=2547, kind=SpanKind.STEP, admitted=True)
    machine.the_agent_dies_after_a_commit()
    machine.teardown()
