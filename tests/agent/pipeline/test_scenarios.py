"""What a device's time becomes, in the situations that people ask about first."""

from __future__ import annotations

from fractions import Fraction

import pytest
from tests.agent.pipeline.world import DOLLARS, HOUR, SECOND, World, rate

from apportion.core.category import Phase, SpanKind, SpanStatus
from apportion.core.reading import Reading
from apportion.core.units import Millijoules, MonotonicNs
from apportion.cost.audit import audit
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.meter import Meter

PRICE = rate(3600 * DOLLARS)
"""A dollar a second."""
NINE = 494_445 * HOUR
"""The start of some hour."""


def test_busy_without_a_client_is_uninstrumented_and_never_idle() -> None:
    """A GPU at 90 % with no span: all of it is somebody's unseen work."""
    world = World([PRICE])
    world.users = ["uid:1000"]
    world.read_all(0.9)
    world.run(60 * SECOND, utilization=0.9)
    sums = world.sums()
    assert set(sums) == {"uninstrumented uid:1000"}
    assert sums["uninstrumented uid:1000"] >= 50 * SECOND


def test_a_pod_that_holds_a_device_is_somebody() -> None:
    """Given to pods that say nothing: their idle and uninstrumented time, by their replicas."""
    world = World([PRICE])
    world.users = ["uid:0"]
    world.holders = ["pod:ml/a", "pod:ml/a", "pod:ml/b"]
    world.read_all(0.0)
    world.run(30 * SECOND, utilization=0.0)
    world.run(30 * SECOND, utilization=0.9)
    sums = world.sums()
    assert {name.partition(" ")[0] for name in sums} == {"allocated_idle", "uninstrumented"}
    for category in ("allocated_idle", "uninstrumented"):
        of_a, of_b = sums[f"{category} pod:ml/a"], sums[f"{category} pod:ml/b"]
        assert of_a + of_b > 25 * SECOND
        assert abs(of_a - 2 * of_b) <= 60
    assert audit(world.ledger).holds


def test_quiet_and_unheld_is_unallocated() -> None:
    """0 % and nobody there: unallocated."""
    world = World([PRICE])
    world.read_all(0.0)
    world.run(60 * SECOND, utilization=0.0)
    assert set(world.sums()) == {"unallocated"}


def test_quiet_and_held_is_allocated_idle() -> None:
    """0 % while a workload holds it: that workload's idle time."""
    world = World([PRICE])
    world.process("llm", started_ns=world.now_ns)
    world.read_all(0.0)
    world.run(60 * SECOND, utilization=0.0)
    assert set(world.sums()) == {"allocated_idle llm"}


def test_a_step_that_was_taken_back_costs_nothing() -> None:
    """A step opened beforehand, of which there came none, gives back what was charged to it."""
    world = World([PRICE])
    llm = world.process("llm", started_ns=None)
    world.read_all(0.9)
    first = llm.start(SpanKind.STEP, world.now_ns, step=1)
    world.run(10 * SECOND, utilization=0.9)
    llm.finish(first, world.now_ns)
    opened = llm.start(SpanKind.STEP, world.now_ns, step=2)
    world.run(30 * SECOND, utilization=0.9)
    assert world.sums()["direct llm"] > 30 * SECOND
    opened.kind, opened.status = SpanKind.EVALUATION, SpanStatus.CANCELLED
    llm.finish(opened, opened.start_ns)
    world.deliver(llm)
    second = llm.start(SpanKind.STEP, world.now_ns, step=2)
    world.run(10 * SECOND, utilization=0.9)
    llm.finish(second, world.now_ns)
    world.run(30 * SECOND, utilization=0.9)
    sums = world.sums()
    assert sums["direct llm"] == 20 * SECOND
    assert sums["between_steps llm"] == 30 * SECOND
    assert llm.state is not None
    assert not llm.state.progress.failed
    assert audit(world.ledger).holds


def test_one_short_request_a_second_is_one_percent_direct() -> None:
    """10 ms of each second at 2 %: 1 % direct, the rest idle, nothing uninstrumented."""
    world = World([PRICE])
    llm = world.process("llm", started_ns=None)
    world.read_all(0.0)
    for second in range(60):
        start_ns = world.now_ns + 300_000_000
        span = llm.start(SpanKind.REQUEST, start_ns, scheduled_ns=start_ns)
        llm.finish(span, start_ns + 10_000_000)
        world.clock.advance(SECOND)
        world.read_all(0.02)
        world.deliver(llm)
        if second % 5 == 4:
            world.tick()
    world.settle()
    sums = world.sums()
    assert sums["direct llm"] == 60 * 10_000_000
    assert set(sums) == {"direct llm", "allocated_idle llm"}
    assert world.sums("units")["direct llm"] == 6 * DOLLARS // 10


def test_silent_telemetry_is_unattributed_and_its_energy_comes_later() -> None:
    """A cut of the readings: never idle, the reason is kept, the counter's rise is posted."""
    world = World([PRICE])
    world.process("llm", started_ns=world.now_ns)
    world.read_all(0.0)
    world.run(20 * SECOND, utilization=0.0)
    for _ in range(6):
        world.clock.advance(10 * SECOND)
        world.tick()
    silent = world.sums()
    assert silent["unattributed"] >= 50 * SECOND
    world.settle()
    rows = [*world.rows("charge"), *world.rows("accrual")]
    assert sum(row["energy_mj"] or 0 for row in rows if row["reason"] == "telemetry_gap") > 0
    metered = sum(row["energy_mj"] for row in world.rows("settlement"))
    marks = world.rows("watermark")
    assert metered == marks[0]["settled_mj"]


def test_a_first_step_makes_what_came_before_it_startup() -> None:
    """Loading took 40 s and looked idle; with the first step it moves to start-up, exactly."""
    world = World([PRICE])
    started_ns = world.now_ns
    trainer = world.process("train", started_ns=started_ns)
    world.read_all(0.0)
    world.run(40 * SECOND, utilization=0.0)
    assert set(world.sums()) == {"allocated_idle train"}
    step = trainer.start(SpanKind.STEP, world.now_ns)
    world.run(5 * SECOND, utilization=0.9)
    trainer.finish(step, world.now_ns)
    world.settle()
    sums = world.sums()
    assert sums["startup train"] == 40 * SECOND
    assert sums["direct train"] == 5 * SECOND
    units = world.sums("units")
    assert units["startup train"] == 40 * DOLLARS
    moves = [row for row in world.rows("charge") if row["kind"] == ChargeKind.REALLOCATION]
    assert sum(row["units"] for row in moves) == 0
    assert sum(row["device_ns"] for row in moves) == 0
    assert sum(row["energy_mj"] for row in moves) == 0


def test_a_server_that_says_it_is_ready_has_started_up() -> None:
    """An hour of waiting for the first request is idleness, not start-up."""
    world = World([PRICE])
    llm = world.process("llm", started_ns=world.now_ns)
    world.read_all(0.0)
    world.run(30 * SECOND, utilization=0.0)
    world.attach(llm).started(world.node(world.now_ns))
    world.run(60 * SECOND, utilization=0.0)
    llm.finish(llm.start(SpanKind.REQUEST, world.now_ns), world.now_ns + 1)
    world.settle()
    assert world.sums()["startup llm"] == 30 * SECOND


def test_pauses_checkpoints_and_evaluation_have_their_own_lines() -> None:
    """A run's time between its steps, and what it does there, is told apart."""
    world = World([PRICE])
    trainer = world.process("train", started_ns=None)
    world.read_all(0.0)
    for kind in (SpanKind.STEP, SpanKind.CHECKPOINT, SpanKind.EVALUATION, SpanKind.STEP):
        span = trainer.start(kind, world.now_ns)
        world.run(4 * SECOND, utilization=0.9)
        trainer.finish(span, world.now_ns)
        world.run(3 * SECOND, utilization=0.1)
    world.settle()
    sums = world.sums()
    assert sums["direct train"] == 8 * SECOND
    assert sums["checkpoint train"] == 4 * SECOND
    assert sums["evaluation train"] == 4 * SECOND
    assert sums["between_steps train"] == 9 * SECOND


def test_the_step_that_was_open_at_death_is_lost_work() -> None:
    """Its cost moves to `lost`, its span ends as lost, and the sums stay."""
    world = World([PRICE])
    trainer = world.process("train", started_ns=None)
    world.read_all(0.9)
    done = trainer.start(SpanKind.STEP, world.now_ns)
    world.run(5 * SECOND, utilization=0.9)
    trainer.finish(done, world.now_ns)
    trainer.start(SpanKind.STEP, world.now_ns)
    world.run(7 * SECOND, utilization=0.9)
    world.die(trainer)
    world.report_death(trainer)
    world.settle()
    sums, units = world.sums(), world.sums("units")
    assert sums["direct train"] == 5 * SECOND
    assert sums["lost train"] == 7 * SECOND
    assert units["lost train"] == 7 * DOLLARS
    assert [row["status"] for row in world.rows("span")] == [SpanStatus.LOST, SpanStatus.OK]
    assert world.settlement.totals.steps.total() == 2
    assert audit(world.ledger).holds


def test_an_hour_and_a_rate_change_inside_a_span_are_charged_apart() -> None:
    """A span over the hour has a line for each hour and rate, together its whole cost."""
    world = World([rate(3600 * DOLLARS)], realtime_ns=NINE + HOUR - 20 * SECOND)
    trainer = world.process("train", started_ns=None)
    world.read_all(0.9)
    step = trainer.start(SpanKind.STEP, world.now_ns)
    world.run(10 * SECOND, utilization=0.9)
    world.rates = [rate(7200 * DOLLARS)]
    world.boot_agent()
    world.run(30 * SECOND, utilization=0.9)
    trainer.finish(step, world.now_ns)
    world.settle()
    lines = [row for row in world.rows("charge") if row["number"] == step.number]
    assert sorted({(row["start_ns"] // HOUR, row["rate_key"]) for row in lines}) == [
        (NINE // HOUR, 1),
        (NINE // HOUR, 2),
        (NINE // HOUR + 1, 2),
    ]
    settled = sum(row["units"] for row in world.rows("settlement"))
    assert sum(row["device_ns"] for row in lines) == 40 * SECOND
    other = sum(value for key, value in world.sums("units").items() if key != "direct train")
    assert sum(row["units"] for row in lines) == settled - other
    assert audit(world.ledger).holds


def test_a_device_without_a_price_has_quantities_and_no_amount() -> None:
    """NULL, never 0; and no second rate appears from nowhere."""
    world = World([])
    llm = world.process("llm", started_ns=None)
    world.read_all(0.9)
    span = llm.start(SpanKind.REQUEST, world.now_ns)
    world.run(5 * SECOND, utilization=0.9)
    llm.finish(span, world.now_ns)
    world.settle()
    rows = [*world.rows("charge"), *world.rows("accrual"), *world.rows("settlement")]
    assert rows
    assert all(row["units"] is None for row in rows)
    assert world.sums()["direct llm"] == 5 * SECOND
    assert world.settlement.totals.unpriced_ns.total() > 0


def test_a_group_waits_for_its_slowest_device_and_pays_for_both_once() -> None:
    """Tensor parallel on two devices, one of them read later: one line, twice the time."""
    world = World([PRICE], devices=2)
    llm = world.process("llm", (0, 1), started_ns=None)
    world.read_all(0.9)
    span = llm.start(SpanKind.STEP, world.now_ns)
    for second in range(12):
        world.clock.advance(SECOND)
        world.read(0, 0.9)
        if second < 6:
            world.read(1, 0.9)
        if second == 8:
            llm.finish(span, world.now_ns)
            world.deliver(llm)
        world.tick()
    assert not [row for row in world.rows("charge") if row["number"]]
    world.settle()
    (line,) = [row for row in world.rows("charge") if row["number"]]
    assert line["device_ns"] == 2 * 9 * SECOND
    assert audit(world.ledger).holds


def test_waiting_for_admission_costs_nothing() -> None:
    """A queue of open requests beside one that runs: only that one pays."""
    world = World([PRICE])
    llm = world.process("llm", started_ns=None)
    world.read_all(0.9)
    first = llm.start(SpanKind.REQUEST, world.now_ns, scheduled_ns=world.now_ns)
    waiting = [llm.start(SpanKind.REQUEST, world.now_ns) for _ in range(5)]
    world.run(10 * SECOND, utilization=0.9)
    llm.finish(first, world.now_ns)
    for span in waiting[:2]:
        span.status = SpanStatus.CANCELLED
        llm.finish(span, world.now_ns)
    world.settle()
    paid = [row for row in world.rows("charge") if row["number"]]
    assert {row["number"] for row in paid} == {first.number}
    assert sum(row["device_ns"] for row in paid) == 10 * SECOND


def test_a_request_that_turns_out_to_have_waited_gives_its_cost_back() -> None:
    """Before the first `scheduled()` nobody knows; afterwards the queue's time moves away."""
    world = World([PRICE])
    llm = world.process("llm", started_ns=None)
    world.read_all(0.9)
    span = llm.start(SpanKind.REQUEST, world.now_ns)
    world.run(15 * SECOND, utilization=0.9)
    assert world.sums()["direct llm"] > 0
    span.scheduled_ns = world.now_ns
    world.run(5 * SECOND, utilization=0.9)
    llm.finish(span, world.now_ns)
    world.settle()
    assert world.sums()["direct llm"] == 5 * SECOND
    assert audit(world.ledger).holds


def test_a_ring_that_is_bound_late_pays_for_what_it_did_before() -> None:
    """Its spans were kept without money; they are charged once its devices are known."""
    world = World([PRICE])
    trainer = world.process("train", None, started_ns=None)
    world.read_all(0.9)
    for _ in range(5):
        step = trainer.start(SpanKind.STEP, world.now_ns)
        inner = trainer.start(SpanKind.PHASE, world.now_ns, parent=step.number, phase=Phase.FORWARD)
        world.run(6 * SECOND, utilization=0.9)
        trainer.finish(inner, world.now_ns)
        trainer.finish(step, world.now_ns)
    world.settle()
    assert set(world.sums()) <= {"uninstrumented", "unallocated"}
    assert world.settlement.totals.unbound_spans == 5
    state = world.attach(trainer)
    assert state.ended().size == 0
    world.bind(trainer, (0,))
    world.settle()
    assert world.sums()["direct train"] == 30 * SECOND
    phases = {row["phase"] for row in world.rows("charge") if row["number"]}
    assert phases == {Phase.FORWARD}
    assert audit(world.ledger).holds


def test_lost_records_leave_time_unattributed_and_charges_incomplete() -> None:
    """Where the ring was overrun nobody knows: not idle, and reports can show the marked sum."""
    world = World([PRICE])
    llm = world.process("llm", started_ns=None)
    world.read_all(0.9)
    world.run(10 * SECOND, utilization=0.0)
    long = llm.start(SpanKind.REQUEST, world.now_ns)
    world.clock.advance(SECOND)
    gone = llm.start(SpanKind.REQUEST, world.now_ns + SECOND)
    llm.finish(long, world.now_ns)
    llm.finish(gone, world.now_ns + 2 * SECOND)
    world.clock.advance(3 * SECOND)
    world.lose(llm, [gone])
    world.read_all(0.0)
    world.settle()
    sums = world.sums()
    assert sums["direct llm"] == SECOND
    assert sums["unattributed"] == SECOND
    rows = [*world.rows("charge"), *world.rows("accrual")]
    assert {row["reason"] for row in rows if row["category"] == 9} == {"records_lost"}


@pytest.mark.parametrize("restarts", [False, True])
def test_records_lost_before_the_ring_is_bound_are_remembered(*, restarts: bool) -> None:
    """What is charged later is marked then, also by the next process of the agent."""
    world = World([PRICE])
    llm = world.process("llm", None, started_ns=None)
    world.read_all(0.9)
    world.run(2 * SECOND, utilization=0.9)
    beside = llm.start(SpanKind.REQUEST, world.now_ns)
    gone = llm.start(SpanKind.REQUEST, world.now_ns)
    world.clock.advance(SECOND)
    llm.finish(gone, world.now_ns)
    world.lose(llm, [gone])
    world.run(10 * SECOND, utilization=0.9)
    assert not [row for row in world.rows("charge") if row["number"]]
    if restarts:
        world.boot_agent()
    world.bind(llm, (0,))
    llm.finish(beside, world.now_ns)
    world.settle()
    lines = [row for row in world.rows("charge") if row["number"]]
    assert [row["incomplete"] for row in lines if row["kind"] == ChargeKind.CHARGE] == [1]


@pytest.mark.parametrize("restarts", [False, True])
def test_what_moves_has_the_energy_that_was_posted(*, restarts: bool) -> None:
    """A start-up that is learnt late takes the energy of its own time, not a mean of more."""
    world = World([PRICE])
    world.read_all(0.0)
    world.run(10 * SECOND, utilization=0.0, used_mj=1_000)
    started_ns = world.now_ns + 2 * SECOND
    for used_mj in (1_000, 1_000, 90_000, 90_000, 90_000):
        world.run(SECOND, utilization=0.0, used_mj=used_mj)
    world.clock.advance(2 * SECOND)
    world.tick()
    if restarts:
        world.boot_agent()
    llm = world.process("llm", started_ns=started_ns)
    span = llm.start(SpanKind.REQUEST, world.now_ns)
    world.run(SECOND, utilization=0.9, used_mj=90_000)
    llm.finish(span, world.now_ns)
    world.settle()
    moved = [row["energy_mj"] for row in world.rows("charge") if row["kind"] == 2]
    assert sorted(moved) == [-270_000, 270_000]
    assert all(energy_mj >= 0 for energy_mj in world.sums("energy_mj").values())


def test_a_loss_is_remembered_while_its_devices_are_another_agents() -> None:
    """A restarted agent reads its ring before it owns the device: what runs is marked later."""
    world = World([PRICE])
    llm = world.process("llm", started_ns=None)
    world.read_all(0.9)
    world.run(10 * SECOND, utilization=0.9)
    beside = llm.start(SpanKind.REQUEST, world.now_ns)
    world.run(5 * SECOND, utilization=0.9)
    gone = llm.start(SpanKind.REQUEST, world.now_ns)
    world.clock.advance(SECOND)
    llm.finish(gone, world.now_ns)
    world.boot_agent(owns=False)
    world.lose(llm, [gone])
    world.clock.advance(4 * SECOND)
    world.tick()
    world.run(10 * SECOND, utilization=0.9)
    llm.finish(beside, world.now_ns)
    world.settle()
    lines = [row for row in world.rows("charge") if row["number"]]
    assert [row["incomplete"] for row in lines if row["kind"] == ChargeKind.CHARGE] == [1]


def test_what_is_learnt_while_a_device_is_given_up_is_charged() -> None:
    """A span of its settled past: its process is read then, another's after the device is back."""
    world = World([PRICE])
    both = [world.process(name) for name in ("first", "second")]
    world.read_all(0.9)
    for process in both:
        process.start(SpanKind.STEP, world.now_ns)
    world.clock.advance(2 * SECOND)
    for process in both:
        process.finish(process.open[1], world.now_ns)
    world.read_all(0.9)
    world.clock.advance(3 * SECOND)
    world.tick()
    first, second = both
    world.boot_agent()
    world.clock.advance(1_300 * SECOND)
    world.deliver(first)
    world.tick()
    world.boot_agent()
    world.read_all(0.9)
    world.deliver(second)
    world.settle()
    sums = world.sums()
    assert (sums["direct first"], sums["direct second"]) == (SECOND, SECOND)
    assert audit(world.ledger).holds


@pytest.mark.parametrize("restarts", [False, True])
def test_a_reading_from_a_settled_silence_loses_no_energy(*, restarts: bool) -> None:
    """An exporter that was away tells of settled time; the ledger keeps it where it counts."""
    world = World([PRICE])
    world.read_all(0.5)
    world.run(5 * SECOND, utilization=0.5)
    before_mj = world.energy_mj[world.infos[0].device]
    world.clock.advance(20 * SECOND)
    world.tick()
    old = Reading(
        world.infos[0].device,
        MonotonicNs(world.now_ns - 8 * SECOND),
        energy_mj=Millijoules(before_mj + 900_000),
        energy_source=world.energy_source,
    )
    (settled_ns,) = [row["settled_ns"] for row in world.rows("watermark")]
    world.settlement.read(world.infos[0], old)
    world.tick()
    assert settled_ns + 1 in {row["time_ns"] for row in world.rows("reading")}
    world.energy_mj[old.device] = before_mj + 900_000
    if restarts:
        world.boot_agent()
    world.settle()
    used_mj = world.energy_mj[old.device] - 7_000
    settled_mj = sum(row["energy_mj"] or 0 for row in world.rows("settlement"))
    assert used_mj - settled_mj in range(5_000)  # what is after the watermark, or before the first
    assert audit(world.ledger).holds


def test_a_device_that_never_comes_back_holds_nobody_up() -> None:
    """After a restart its group waits ten minutes for it, then goes on with the others."""
    world = World([PRICE], devices=2)
    llm = world.process("llm", (0, 1), started_ns=None)
    world.read_all(0.9)
    world.run(10 * SECOND, utilization=0.9)
    world.boot_agent()
    span = llm.start(SpanKind.STEP, world.now_ns)
    world.clock.advance(SECOND)
    llm.finish(span, world.now_ns)
    for _ in range(65):
        world.clock.advance(10 * SECOND)
        world.read(0, 0.9)
        world.deliver(llm)
        world.tick()
    assert world.attach(llm).ended().size == 0
    (line,) = [row for row in world.rows("charge") if row["number"]]
    assert line["device_ns"] == SECOND
    world.settle()
    assert audit(world.ledger).holds


def test_a_fleet_year_in_won_adds_up_without_overflow() -> None:
    """A line is a device-hour at most; the wide sum of a thousand devices' year is exact."""
    per_hour = Fraction(5_000_000) * DOLLARS
    meter = Meter.within_hour(per_hour, NINE, None)
    hour_units = meter.at(NINE + HOUR)
    assert hour_units == 5_000_000 * DOLLARS
    assert hour_units < 1 << 63
    hours = 1_000 * 24 * 365
    assert hours * hour_units > 1 << 63
    world = World([rate(per_hour, currency="KRW")], realtime_ns=NINE, currency="KRW")
    world.read_all(0.9)
    world.run(62 * SECOND, utilization=0.9)
    settled = sum(row["units"] for row in world.rows("settlement"))
    posted = sum(row["units"] for row in [*world.rows("charge"), *world.rows("accrual")])
    (mark,) = world.rows("watermark")
    assert settled == posted == meter.at(mark["settled_ns"]) - meter.at(mark["since_ns"])


def test_forgotten_rings_may_show_up_again() -> None:
    """A finished ring file that stays in a pod's directory is no news after a restart."""
    world = World([PRICE])
    trainer = world.process("train", started_ns=None)
    world.read_all(0.9)
    trainer.finish(trainer.start(SpanKind.STEP, world.now_ns), world.now_ns + 1)
    world.deliver(trainer)
    world.die(trainer)
    world.report_death(trainer)
    world.settle()
    world.clock.advance(7 * HOUR)
    world.settle()
    world.boot_agent()
    assert not world.settlement.rings
    assert world.attach(trainer).ended_ns is not None
    world.settle()
    assert audit(world.ledger).holds


def test_a_late_record_takes_its_time_from_the_pause_that_it_lies_in() -> None:
    """The steps around it are long charged and forgotten: the pause is known from the ledger."""
    world = World([PRICE])
    trainer = world.process("train", started_ns=None)
    server = world.process("llm", started_ns=None)
    world.read_all(0.1)
    late_ns = world.now_ns + 8 * SECOND
    for _ in range(2):
        step = trainer.start(SpanKind.STEP, world.now_ns)
        world.run(5 * SECOND, utilization=0.9)
        trainer.finish(step, world.now_ns)
        world.run(10 * SECOND, utilization=0.1)
    trainer.finish(trainer.start(SpanKind.STEP, world.now_ns), world.now_ns + 1)
    world.run(70 * SECOND, utilization=0.1)
    before = world.sums()
    assert before["between_steps train"] == 20 * SECOND
    assert world.attach(trainer).ended().size == 0
    server.finish(server.start(SpanKind.REQUEST, late_ns), late_ns + 2 * SECOND)
    world.settle()
    after = world.sums()
    assert after["direct llm"] == 2 * SECOND
    assert after["between_steps train"] == 18 * SECOND
    assert audit(world.ledger).holds


def test_a_late_record_shares_with_a_step_that_was_lost() -> None:
    """What moves away from a lost step leaves `lost`, not `direct`."""
    world = World([PRICE])
    trainer = world.process("train", started_ns=None)
    server = world.process("llm", started_ns=None)
    world.read_all(0.9)
    start_ns = world.now_ns
    trainer.start(SpanKind.STEP, start_ns)
    world.run(8 * SECOND, utilization=0.9)
    world.die(trainer)
    world.report_death(trainer)
    world.settle()
    assert world.sums()["lost train"] == 8 * SECOND
    server.finish(server.start(SpanKind.REQUEST, start_ns), start_ns + 4 * SECOND)
    world.settle()
    sums = world.sums()
    assert sums["lost train"] == 6 * SECOND
    assert sums["direct llm"] == 2 * SECOND
    assert "direct train" not in sums
    assert audit(world.ledger).holds


def test_a_ring_changes_its_devices_for_what_is_not_settled() -> None:
    """A better source names another device: settled time stays, the rest goes there."""
    world = World([PRICE], devices=2)
    trainer = world.process("train", (0, 1), started_ns=None)
    world.read_all(0.9)
    step = trainer.start(SpanKind.STEP, world.now_ns)
    world.run(10 * SECOND, utilization=0.9)
    marks = {row["device_key"]: row["settled_ns"] for row in world.rows("watermark")}
    world.bind(trainer, (1,))
    world.run(10 * SECOND, utilization=0.9)
    trainer.finish(step, world.now_ns)
    world.boot_agent()
    world.settle()
    whole_ns = 20 * SECOND
    left_ns = world.node(step.end_ns) - max(marks.values())
    lines = [row for row in world.rows("charge") if row["number"]]
    assert len({row["group_key"] for row in lines}) == 2
    assert sum(row["device_ns"] for row in lines) == 2 * whole_ns - left_ns
    assert audit(world.ledger).holds


def test_a_device_that_is_owned_again_only_later_goes_on_from_its_watermark() -> None:
    """A pod's agent learns from the rings what it owns: what ran meanwhile is still charged."""
    world = World([PRICE])
    trainer = world.process("train", started_ns=None)
    world.read_all(0.9)
    first = trainer.start(SpanKind.STEP, world.now_ns)
    world.run(10 * SECOND, utilization=0.9)
    trainer.finish(first, world.now_ns)
    world.boot_agent(owns=False)
    second = trainer.start(SpanKind.STEP, world.now_ns)
    for _ in range(3):
        world.clock.advance(5 * SECOND)
        world.deliver(trainer)
        world.tick()
    trainer.finish(second, world.now_ns)
    world.settle()
    assert world.sums()["direct train"] == 25 * SECOND
    assert audit(world.ledger).holds
