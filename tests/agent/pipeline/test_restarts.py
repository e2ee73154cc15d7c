"""What a restart made vain moves to `lost`: once, to the unit, whoever dies meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from tests.agent.pipeline.world import DOLLARS, HOUR, SECOND, Process, World, rate

from apportion.agent.ingest import Identity
from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.core.ids import AttemptId, RunId
from apportion.cost.audit import audit, audit_text
from apportion.cost.ledger.batch import ChargeKind

PRICE = rate(3600 * DOLLARS)
"""A dollar a second."""


def said(
    attempt: str,
    rank: int | None = None,
    *,
    run: str = "r",
    world_size: int | None = None,
    restarts: int | None = None,
    resumed: int | None = None,
) -> Identity:
    """What a rank says of itself."""
    return Identity(
        run=RunId(run),
        attempt=AttemptId(attempt),
        rank=rank,
        world_size=world_size,
        restart_count=restarts,
        resumed_from_step=resumed,
    )


def start(
    world: World,
    attempt: str,
    ranks: int = 1,
    *,
    restarts: int | None = None,
    resumed: int | None = None,
) -> list[Process]:
    """The processes of one attempt of the run `r`, a device each."""
    return [
        world.process(
            f"{attempt}.{rank}.{world.now_ns}",
            (rank,),
            started_ns=world.now_ns,
            run="train",
            said=said(attempt, rank, restarts=restarts, resumed=resumed),
        )
        for rank in range(ranks)
    ]


def train(
    world: World,
    processes: Sequence[Process],
    steps: range,
    *,
    seconds: int = 2,
    phases: bool = False,
) -> None:
    """Every process runs these steps, a pause of half a second after each."""
    for number in steps:
        spans = [(p, p.start(SpanKind.STEP, world.now_ns, step=number)) for p in processes]
        for process, span in spans:
            if phases:
                inner = process.start(
                    SpanKind.PHASE, world.now_ns, parent=span.number, phase=Phase.FORWARD
                )
                process.finish(inner, world.now_ns + SECOND)
        world.run(seconds * SECOND, utilization=0.9)
        for process, span in spans:
            process.finish(span, world.now_ns)
        world.clock.advance(SECOND // 2)


def kill(world: World, processes: Sequence[Process]) -> None:
    """They are killed, and the agent notices."""
    for process in processes:
        world.die(process)
        world.report_death(process)


def lost(world: World, column: str = "device_ns") -> dict[str, int]:
    """What was moved to `lost`, by reason."""
    found: Counter[str] = Counter()
    for row in world.rows("charge"):
        if row["category"] == int(Category.LOST):
            found[row["reason"]] += row[column] or 0
    return {reason: amount for reason, amount in found.items() if amount}


def check(world: World) -> None:
    """The book holds, and moves sum to zero."""
    result = audit(world.ledger)
    assert result.holds, audit_text(result)
    moves = [row for row in world.rows("charge") if row["kind"] == ChargeKind.REALLOCATION]
    for column in ("device_ns", "units", "energy_mj"):
        assert sum(row[column] or 0 for row in moves) == 0


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("phases", [True, False])
def test_steps_that_are_done_again_are_lost(says: bool, phases: bool) -> None:
    """Steps 0 to 9, a checkpoint of step 4, a crash: 5 to 9 are lost on every rank, to the unit."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    first = start(world, "0", ranks=2)
    train(world, first, range(10), phases=phases)
    kill(world, first)
    world.run(5 * SECOND, utilization=0.0)
    again = start(world, "1", ranks=2, resumed=4 if says else None)
    world.run(5 * SECOND, utilization=0.5)
    train(world, again, range(5, 8), phases=phases)
    world.run(140 * SECOND, utilization=0.0)

    assert lost(world)["rolled_back"] == 2 * 5 * 2 * SECOND
    assert lost(world, "units")["rolled_back"] == 2 * 5 * 2 * DOLLARS
    assert world.sums()["direct train"] == 2 * (5 + 3) * 2 * SECOND
    moved = world.settlement.totals.moved
    (one,) = [key for key in moved if key.reason == "rolled_back"]
    assert (one.source, one.target) == (Category.DIRECT, Category.LOST)
    assert moved[one] == 2 * 5 * 2 * DOLLARS
    in_steps = {
        key.reason: (spent.device_ns, spent.units)
        for key, spent in world.settlement.totals.lost.items()
        if key.source is Category.DIRECT and key.run
    }
    assert in_steps == {
        "process_died": (0, None),
        "rolled_back": (2 * 5 * 2 * SECOND, 2 * 5 * 2 * DOLLARS),
    }
    phased = Counter[int]()
    for row in world.rows("charge"):
        if row["reason"] == "rolled_back" and row["category"] == int(Category.LOST):
            phased[row["phase"]] += row["device_ns"]
    assert phased[int(Phase.FORWARD)] == (2 * 5 * SECOND if phases else 0)
    check(world)


def test_ranks_that_hang_until_they_are_killed() -> None:
    """Rank 0 dies, the others wait in a step or between two until the launcher kills them."""
    world = World([PRICE], devices=3)
    world.read_all(0.9)
    first = start(world, "0", ranks=3)
    train(world, first, range(4))
    for process in first[:2]:
        process.start(SpanKind.STEP, world.now_ns, step=4)
    world.run(3 * SECOND, utilization=0.9)
    kill(world, first[:1])
    hung_ns = world.now_ns
    world.run(100 * SECOND, utilization=0.9)
    kill(world, first[1:])
    killed_ns = world.now_ns
    world.run(140 * SECOND, utilization=0.0)
    assert set(lost(world)) == {"process_died"}  # nobody knows yet that it goes on

    again = start(world, "1", ranks=3, resumed=3)
    world.run(5 * SECOND, utilization=0.5)
    train(world, again, range(4, 6))
    world.run(140 * SECOND, utilization=0.0)
    found = lost(world)
    assert "rolled_back" not in found
    assert found["process_died"] == 2 * 3 * SECOND + (killed_ns - hung_ns)
    # Rank 2 was in no step: from the end of step 3 on it waited.
    waited_ns = killed_ns - max(span.end_ns for span in first[2].spans.values())
    assert found["hang"] == waited_ns
    assert "uninstrumented train" not in world.sums()
    check(world)


def test_a_long_start_up_is_no_hang() -> None:
    """Minutes of loading looked idle first; what was learnt of them later is not lost."""
    world = World([PRICE])
    world.read_all(0.0)
    first = start(world, "0")
    world.run(200 * SECOND, utilization=0.0)
    train(world, first, range(4))
    kill(world, first)
    world.run(5 * SECOND, utilization=0.0)
    again = start(world, "1")
    world.run(200 * SECOND, utilization=0.0)
    train(world, again, range(4, 6))
    world.run(140 * SECOND, utilization=0.0)
    assert world.sums()["startup train"] == 400 * SECOND
    assert lost(world) == {"hang": SECOND // 2 + SECOND}
    check(world)


def test_a_trainer_that_ended_well_loses_nothing_when_it_goes_on() -> None:
    """Finished, evaluated without a span, idle for a while, and days later continued."""
    world = World([PRICE])
    world.read_all(0.9)
    first = start(world, "a")
    train(world, first, range(5))
    world.run(100 * SECOND, utilization=0.9)  # an evaluation that nobody instrumented
    for process in first:
        world.die(process)
        world.report_death(process, closed=True)
    before = {name: ns for name, ns in world.sums().items() if "train" in name}
    for _ in range(30):
        world.clock.advance(HOUR)
        world.read_all(0.0)
        world.tick()
    again = start(world, "b")
    train(world, again, range(5, 7))
    world.run(140 * SECOND, utilization=0.0)
    assert lost(world) == {}
    assert world.sums()["uninstrumented train"] >= before["uninstrumented train"]
    check(world)


def test_a_restart_that_comes_a_day_later() -> None:
    """The dead ring is forgotten by then; the ledger is not."""
    world = World([PRICE])
    world.read_all(0.9)
    first = start(world, "0")
    train(world, first, range(6))
    kill(world, first)
    for _ in range(30):
        world.clock.advance(HOUR)
        world.read_all(0.0)
        world.tick()
    assert not any(ring.ended_ns for ring in world.settlement.rings.values())
    world.boot_agent()
    again = start(world, "1")
    train(world, again, range(3, 5))
    world.run(140 * SECOND, utilization=0.0)
    assert lost(world)["rolled_back"] == 3 * 2 * SECOND
    check(world)


def test_two_restarts_of_which_the_second_goes_further_back() -> None:
    """Nothing is moved twice: each step of each attempt is lost once."""
    world = World([PRICE])
    world.read_all(0.9)
    for attempt, steps in enumerate([range(8), range(5, 9), range(2, 6), range(4, 9)]):
        processes = start(world, str(attempt), restarts=attempt)
        world.run(2 * SECOND, utilization=0.5)
        train(world, processes, steps)
        kill(world, processes)
        world.run(140 * SECOND, utilization=0.0)
    # Of 0..7 remain 0 and 1, of 5..8 nothing, of 2..5 remain 2 and 3.
    assert lost(world)["rolled_back"] == (6 + 4 + 2) * 2 * SECOND
    # Three times the pause after the last step, and the reading in which the process died.
    assert lost(world)["hang"] == 3 * (SECOND // 2 + SECOND)
    check(world)


def test_a_program_that_goes_back_by_itself() -> None:
    """It says so, in the middle of its life; what it does again is not lost."""
    world = World([PRICE])
    world.read_all(0.9)
    (trainer,) = start(world, "0")
    train(world, [trainer], range(6))
    world.attach(trainer).progress.resumed(2, world.node(world.now_ns))
    train(world, [trainer], range(3, 8))
    world.run(30 * SECOND, utilization=0.0)
    assert lost(world) == {"rolled_back": 3 * 2 * SECOND}
    check(world)


def test_runs_side_by_side_do_not_meet() -> None:
    """Two runs of one workload at one time: a restart of one leaves the other alone."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    one = world.process("one", (0,), started_ns=world.now_ns, run="train", said=said("0", run="a"))
    two = world.process("two", (1,), started_ns=world.now_ns, run="train", said=said("0", run="b"))
    train(world, [one, two], range(4))
    kill(world, [one])
    again = world.process(
        "one again", (0,), started_ns=world.now_ns, run="train", said=said("1", run="a")
    )
    train(world, [again, two], range(2, 4))
    world.run(140 * SECOND, utilization=0.0)
    assert lost(world)["rolled_back"] == 2 * 2 * SECOND
    check(world)


def test_the_same_run_twice_at_one_time_loses_nothing() -> None:
    """A run id that two jobs use by mistake: both step on, so neither replaced the other."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    one = world.process("one", (0,), started_ns=world.now_ns, run="train", said=said("x"))
    train(world, [one], range(4))
    two = world.process("two", (1,), started_ns=world.now_ns, run="train", said=said("y"))
    train(world, [one, two], range(4, 6))
    kill(world, [one, two])
    world.run(140 * SECOND, utilization=0.0)
    assert lost(world) == {}


def test_steps_without_numbers_are_never_rolled_back() -> None:
    """Nobody can say that they were done again; the attempts are still known."""
    world = World([PRICE])
    world.read_all(0.9)
    for attempt in ("0", "1"):
        processes = start(world, attempt)
        train(world, processes, range(-1, 0))
        train(world, processes, range(-1, 0))
        kill(world, processes)
        world.run(140 * SECOND, utilization=0.0)
    assert "rolled_back" not in lost(world)
    check(world)


def test_an_agent_that_dies_at_any_moment_posts_once() -> None:
    """Killed after each commit of a restart, it neither forgets the loss nor posts it twice."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    first = start(world, "0", ranks=2)
    train(world, first, range(6))
    kill(world, first)
    again = start(world, "1", ranks=2)
    for number in range(3, 6):
        spans = [(p, p.start(SpanKind.STEP, world.now_ns, step=number)) for p in again]
        for second in range(4):
            world.clock.advance(SECOND)
            world.read_all(0.9)
            for process in again:
                world.deliver(process)
                world.poll(process)
            if second % 2:
                world.ledger.crash_after = True
            else:
                world.ledger.fail_at = 7
            world.tick()
            world.ledger.fail_at = None
        for process, span in spans:
            process.finish(span, world.now_ns)
    for _ in range(4):
        world.boot_agent()
        world.run(25 * SECOND, utilization=0.0)
    assert lost(world)["rolled_back"] == 2 * 3 * 2 * SECOND
    rows = [row for row in world.rows("lost_work") if row["reason"] == "rolled_back"]
    assert [(row["ring_key"], row["first_step"]) for row in rows] == [(1, 3), (2, 3)]
    check(world)


def test_a_price_that_is_missing_moves_quantities_and_no_amounts() -> None:
    """NULL stays NULL."""
    world = World([])
    world.read_all(0.9)
    first = start(world, "0")
    train(world, first, range(4))
    kill(world, first)
    again = start(world, "1")
    train(world, again, range(2, 4))
    world.run(140 * SECOND, utilization=0.0)
    assert lost(world)["rolled_back"] == 2 * 2 * SECOND
    assert all(row["units"] is None for row in world.rows("charge"))
    check(world)


def test_statuses_of_steps_do_not_matter() -> None:
    """A step that ended with an error and is done again was in vain as well."""
    world = World([PRICE])
    world.read_all(0.9)
    first = start(world, "0")
    train(world, first, range(3))
    (trainer,) = first
    failing = trainer.start(SpanKind.STEP, world.now_ns, step=3, status=SpanStatus.ERROR)
    world.run(2 * SECOND, utilization=0.9)
    trainer.finish(failing, world.now_ns)
    world.die(trainer)
    world.report_death(trainer, closed=True)
    again = start(world, "1")
    train(world, again, range(3, 5))
    world.run(140 * SECOND, utilization=0.0)
    assert lost(world)["rolled_back"] == 2 * SECOND
    (row,) = [row for row in world.rows("ring_position") if row["ring_key"] == 1]
    assert (row["closed"], row["step_failed"]) == (1, 1)
    check(world)


def test_what_is_learnt_later_about_lost_steps_moves_lost_cost() -> None:
    """A neighbour on the device is bound after the restart: its share comes out of `lost`."""
    world = World([PRICE])
    world.read_all(0.9)
    first = start(world, "0")
    neighbour = world.process("neighbour", None)
    busy = neighbour.start(SpanKind.REQUEST, world.now_ns)
    train(world, first, range(6))
    neighbour.finish(busy, world.now_ns)
    kill(world, first)
    again = start(world, "1")
    train(world, again, range(2, 4))
    world.run(20 * SECOND, utilization=0.0)
    assert lost(world)["rolled_back"] == 4 * 2 * SECOND
    world.bind(neighbour, (0,))
    world.run(140 * SECOND, utilization=0.0)
    assert sum(lost(world).values()) == 4 * SECOND
    assert world.sums()["direct train"] == (2 * 2 // 2 + 2 * 2) * SECOND
    check(world)
