"""Reports on runs, over ledgers that a real settlement wrote."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from fractions import Fraction
from math import sqrt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.test_restarts import kill, said, start, train
from tests.agent.pipeline.world import DOLLARS, HOUR, SECOND, Process, World, rate

from apportion.core.category import Category, Phase, SpanKind
from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerError
from apportion.cost.audit import audit, audit_text
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.quantity import Quantity
from apportion.cost.rate import PriceTable
from apportion.cost.repricing.apply import apply_prices
from apportion.cost.training.attempts import Outcome
from apportion.cost.training.run_data import run_csv, run_documents, run_json
from apportion.cost.training.run_report import run_report
from apportion.cost.training.run_rows import LOST, RunLine, RunRow, run_line
from apportion.cost.training.run_text import run_table, run_text

PRICE = rate(3600 * DOLLARS)
"""A dollar a second."""


def the_run(*worlds: World, mtbf_s: float | None = None) -> RunRow:
    """The one run of some hosts."""
    (row,) = run_report([world.ledger for world in worlds], mtbf_s=mtbf_s).runs
    check(row, *worlds)
    return row


def check(row: RunRow, *worlds: World) -> None:
    """Lines add up to the total, and that is what the ledgers have of the run's entities."""
    for name in ("device_ns", "units", "energy_mj"):
        amounts = [getattr(line.total, name) or 0 for line in row.lines]
        expected = 0
        for world in worlds:
            mine = {
                entity["entity_key"]
                for entity in world.rows("entity")
                if (entity["workload"], entity["run"]) == row.key
            }
            for line in [*world.rows("charge"), *world.rows("accrual")]:
                expected += (line[name] or 0) if line["entity_key"] in mine else 0
        assert sum(amounts) == (getattr(row.total, name) or 0) == expected
    assert all(line.total.device_ns > 0 for line in row.lines), row.lines
    attempts = [attempt.total.device_ns for attempt in row.attempts]
    assert sum(attempts) <= row.total.device_ns


def seconds(row: RunRow, line: RunLine) -> float:
    """A line's device time."""
    return row.sum_of(frozenset({line})).device_ns / SECOND


def crashed(world: World, ranks: int = 2) -> list[Process]:
    """Ten steps and a checkpoint, four more steps, the fifth hangs for 20 s, then all is killed."""
    world.read_all(0.9)
    first = start(world, "0", ranks=ranks)
    world.run(5 * SECOND, utilization=0.5)
    train(world, first, range(10), phases=True)
    for process in first:
        process.finish(process.start(SpanKind.CHECKPOINT, world.now_ns), world.now_ns + SECOND)
    world.clock.advance(SECOND)
    train(world, first, range(10, 14))
    for process in first:
        process.start(SpanKind.STEP, world.now_ns, step=14)
    world.run(20 * SECOND, utilization=0.9)
    return first


def again(world: World, ranks: int = 2, until: int = 20) -> list[Process]:
    """The job comes back half a minute later and goes on from the checkpoint."""
    world.run(30 * SECOND, utilization=0.0)
    second = start(world, "1", ranks=ranks, restarts=1)
    world.run(4 * SECOND, utilization=0.5)
    train(world, second, range(10, until))
    return second


def test_where_the_cost_of_a_run_went() -> None:
    """Kept, lost, started and saved, each in its line; steps count once over ranks."""
    world = World([PRICE], devices=2)
    first = crashed(world)
    kill(world, first)
    again(world)
    world.run(140 * SECOND, utilization=0.0)
    row = the_run(world)

    assert (row.finished_steps, row.kept_steps, row.last_step) == (14 + 10, 20, 19)
    assert seconds(row, RunLine.STEPS) == 2 * 20 * 2
    assert seconds(row, RunLine.ROLLED_BACK) == 2 * 4 * 2
    assert seconds(row, RunLine.OPEN_AT_DEATH) == 2 * 20
    assert seconds(row, RunLine.CHECKPOINTS) == 2 * 1
    assert (seconds(row, RunLine.STARTUP), seconds(row, RunLine.RESTARTS)) == (2 * 5, 2 * 4)
    assert row.units_per_step == 4 * DOLLARS
    assert row.units_per_kept_step == row.total.units // 20 if row.total.units else None
    assert row.goodput_of_time == row.goodput_of_cost == 80 * SECOND / row.total.device_ns
    one, two = row.attempts
    assert (one.outcome, two.outcome) == (Outcome.INTERRUPTED, Outcome.RUNNING)
    assert (one.finished_steps, one.kept_steps, one.last_step) == (14, 10, 13)
    assert (two.resumed_step, two.begins_at, two.kept_steps) == (9, 10, 10)
    assert two.down_ns == 30 * SECOND
    assert one.lost.device_ns == 2 * (4 * 2 + 20) * SECOND
    assert not any(line.derived.device_ns for line in row.lines)


def test_golden_text(repository: Path) -> None:
    """What people see, to the character: golden_run.txt beside this test."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    first = start(world, "0", ranks=2)
    world.run(5 * SECOND, utilization=0.5)
    saving(world, first, 3)
    train(world, first, range(12, 15))
    for process in first:
        process.start(SpanKind.STEP, world.now_ns, step=15)
    world.run(20 * SECOND, utilization=0.9)
    kill(world, first)
    again(world)
    world.run(140 * SECOND, utilization=0.0)
    report = run_report([world.ledger])
    text = f"{run_text(report, decimals=2)}\n{run_table(report, decimals=2)}"
    expected = (repository / "tests" / "cost" / "training" / "golden_run.txt").read_text()
    assert text == expected
    assert max(len(line) for line in text.splitlines()) <= 100


def test_what_the_agent_did_not_post_yet_is_derived_and_then_the_same() -> None:
    """Right after the restart the report says already what the ledger will say later."""
    world = World([PRICE], devices=2)
    kill(world, crashed(world))
    start(world, "1", ranks=2, resumed=9)
    found: list[tuple[float, bool]] = []
    for _ in range(8):
        world.tick()
        lines = [line for line in the_run(world).lines if line.line is RunLine.ROLLED_BACK]
        found += [(line.total.device_ns / SECOND, bool(line.derived.device_ns)) for line in lines]
        world.clock.advance(SECOND)
        world.read_all(0.5)
    assert [found[0], found[-1]] == [(2 * 4 * 2, True), (2 * 4 * 2, False)]
    assert found == sorted(found, key=lambda one: not one[1])


@pytest.mark.parametrize("offset_s", [-40, 0, 40])
def test_a_node_that_died_with_its_ledger_kept(offset_s: int) -> None:
    """Its agent never saw the restart: what is lost there follows from the other's attempts."""
    wall_ns = 1_780_000_200 * SECOND
    here = World([PRICE], devices=2, realtime_ns=wall_ns)
    there = World([PRICE], devices=2, realtime_ns=wall_ns + offset_s * SECOND)
    first = crashed(here)
    crashed(there)
    there.tick()  # and then it is gone
    kill(here, first)
    again(here)
    here.run(140 * SECOND, utilization=0.0)
    row = the_run(here, there)

    assert seconds(row, RunLine.ROLLED_BACK) == 4 * 4 * 2
    lines = {line.line: line for line in row.lines}
    assert lines[RunLine.ROLLED_BACK].derived == Quantity(
        16 * SECOND, 16 * DOLLARS, lines[RunLine.ROLLED_BACK].derived.energy_mj
    )
    open_ns = lines[RunLine.OPEN_AT_DEATH].derived.device_ns
    assert 2 * 15 * SECOND <= open_ns <= 2 * 20 * SECOND  # as far as it was settled
    one, two = row.attempts
    assert (one.nodes, one.ranks, one.outcome) == (2, 4, Outcome.INTERRUPTED)
    assert (two.nodes, two.ranks) == (1, 2)
    assert (row.finished_steps, row.kept_steps) == (24, 20)
    assert row.units_per_step == round(Fraction(4 * 14 * 2 + 2 * 10 * 2, 24) * DOLLARS)
    assert "- derived:" in run_text(run_report([here.ledger, there.ledger]))


def test_a_job_that_moved_to_other_nodes() -> None:
    """Nobody on the first node saw it come back; the second one's ledger tells."""
    here, there = World([PRICE], devices=2), World([PRICE], devices=2)
    kill(here, crashed(here))
    here.run(140 * SECOND, utilization=0.0)
    assert seconds(the_run(here), RunLine.ROLLED_BACK) == 0
    there.clock.advance(200 * SECOND)
    there.clock.step_realtime(0)
    there.read_all(0.5)
    train(there, start(there, "1", ranks=2, resumed=9), range(10, 12))
    there.run(140 * SECOND, utilization=0.0)
    assert seconds(the_run(here, there), RunLine.ROLLED_BACK) == 2 * 4 * 2
    assert the_run(here, there).kept_steps == 12


def test_ranks_that_are_missing_are_named() -> None:
    """Half of a job is in this ledger: the report says that it is only half."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    ranks = [
        world.process(f"r{n}", (n,), run="train", said=said("0", n, world_size=4)) for n in (0, 1)
    ]
    train(world, ranks, range(3))
    world.run(20 * SECOND, utilization=0.0)
    row = the_run(world)
    assert row.notes[0].startswith("attempt 1: 2 of 4 ranks are in these ledgers")


def test_one_attempt_name_for_two_executions() -> None:
    """A pod that restarts counts from 0: its two lives are two attempts, each with its cost."""
    world = World([PRICE])
    world.read_all(0.9)
    first = start(world, "0")
    train(world, first, range(6))
    kill(world, first)
    world.run(140 * SECOND, utilization=0.0)
    second = start(world, "0")
    train(world, second, range(3, 5))
    world.run(140 * SECOND, utilization=0.0)
    row = the_run(world)
    assert [(a.label, a.finished_steps, a.kept_steps) for a in row.attempts] == [
        ("0", 6, 3),
        ("0", 2, 2),
    ]
    # Six steps, a pause after each, and the rest of the reading in which it died.
    assert row.attempts[0].total.device_ns == (6 * 2 + 3 + 1) * SECOND
    assert row.attempts[0].lost.device_ns >= 3 * 2 * SECOND


def test_a_new_training_under_an_old_name_is_noted() -> None:
    """Nothing is lost, and the report says why there are two attempts."""
    world = World([PRICE])
    world.read_all(0.9)
    for label in ("x", "y"):
        processes = start(world, label)
        train(world, processes, range(3))
        kill(world, processes)
        world.run(140 * SECOND, utilization=0.0)
    row = the_run(world)
    assert row.sum_of(LOST) == Quantity()
    assert "attempt 2 took no earlier one's place" in row.notes[0]


def test_steps_numbered_from_zero_after_a_resume_are_noted() -> None:
    """They are lost by their numbers; the note says what to do."""
    world = World([PRICE])
    world.read_all(0.9)
    train(world, start(world, "0"), range(6))
    kill(world, list(world.processes.values()))
    train(world, start(world, "1", resumed=4), range(2))
    world.run(20 * SECOND, utilization=0.0)
    (note,) = the_run(world).notes
    assert note.startswith("attempt 2 says that it goes on from step 4 and runs step 0")


def test_steps_without_numbers() -> None:
    """Ranks run them together, so they are not counted for each; nothing is divided by them."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    ranks = start(world, "0", ranks=2)
    for _ in range(3):
        train(world, ranks, range(-1, 0))
    world.run(20 * SECOND, utilization=0.0)
    row = the_run(world)
    assert (row.finished_steps, row.unnumbered_steps) == (0, 3)
    assert row.units_per_step is row.units_per_kept_step is None
    assert "3 steps have no number" in run_text(run_report([world.ledger]))


def test_tokens_of_steps_that_were_kept() -> None:
    """A million tokens cost what all of it cost, over those that the model has seen for good."""
    world = World([PRICE])
    world.read_all(0.9)
    for label, steps in (("0", range(4)), ("1", range(2, 6))):
        processes = start(world, label)
        for number in steps:
            (process,) = processes
            step = process.start(SpanKind.STEP, world.now_ns, step=number, trained=1_000)
            world.run(2 * SECOND, utilization=0.9)
            process.finish(step, world.now_ns)
        world.run(SECOND, utilization=0.0)
        kill(world, processes)
    world.run(140 * SECOND, utilization=0.0)
    row = the_run(world)
    assert (row.tokens, row.kept_tokens) == (8_000, 6_000)
    assert row.total.units is not None
    assert row.units_per_million_tokens == round(Fraction(row.total.units * 10**6, 6_000))


def test_no_price_and_no_amounts() -> None:
    """NULL, never 0: quantities are there and every figure in money is not."""
    world = World([])
    kill(world, crashed(world, ranks=1))
    again(world, ranks=1)
    world.run(140 * SECOND, utilization=0.0)
    row = the_run(world)
    assert row.total.units is row.units_per_step is row.units_per_kept_step is None
    assert row.goodput_of_cost is None
    assert row.goodput_of_time is not None
    assert row.checkpoints is not None
    assert row.checkpoints.units_each is row.checkpoints.wasted_units is None
    assert "a step that was kept             -" in run_text(run_report([world.ledger]))


def saving(world: World, processes: Sequence[Process], count: int, *, every: int = 4) -> None:
    """Checkpoints of a second, after so many steps of two and a half."""
    for number in range(count):
        train(world, processes, range(number * every, (number + 1) * every))
        for process in processes:
            process.finish(process.start(SpanKind.CHECKPOINT, world.now_ns), world.now_ns + SECOND)
        world.clock.advance(SECOND)


def test_checkpoints_and_their_best_interval() -> None:
    """Five checkpoints of a second, ten seconds apart, and one failure."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    first = start(world, "0", ranks=2)
    saving(world, first, 5)
    kill(world, first)
    world.run(10 * SECOND, utilization=0.0)
    second = start(world, "1", ranks=2, resumed=19)
    world.run(5 * SECOND, utilization=0.0)
    train(world, second, range(20, 22))
    world.run(140 * SECOND, utilization=0.0)
    found = the_run(world).checkpoints
    assert found is not None
    assert (found.count, found.checkpoint_s, found.interval_s) == (5, 1.0, 10.0)
    assert found.units_each == 2 * DOLLARS
    assert (found.failures, found.mtbf_is_bound, found.mtbf_is_given) == (1, False, False)
    assert found.restart_s == pytest.approx(15.0)
    lived_s = 5 * 11 + 5 + 2 * 2.5
    assert found.mtbf_s is not None
    assert found.mtbf_s == pytest.approx(lived_s, abs=1.0)
    assert found.young_s == pytest.approx(sqrt(2 * found.mtbf_s))
    assert found.waste_ratio is not None
    assert found.least_waste_ratio is not None
    assert found.waste_ratio == pytest.approx(0.1 + 10 / (2 * found.mtbf_s) + 15 / found.mtbf_s)
    assert found.waste_ratio >= found.least_waste_ratio
    assert found.wasted_units is not None
    assert found.wasted_units >= 0
    given = the_run(world, mtbf_s=3600.0).checkpoints
    assert given is not None
    assert (given.mtbf_s, given.mtbf_is_given) == (3600.0, True)
    assert given.young_s == pytest.approx(7200**0.5)


def test_a_run_that_never_failed_has_a_bound_only() -> None:
    """Its MTBF is longer than it lived, and so is the interval: no waste is claimed."""
    world = World([PRICE])
    world.read_all(0.9)
    saving(world, start(world, "0"), 2)
    world.run(20 * SECOND, utilization=0.0)
    found = the_run(world).checkpoints
    assert found is not None
    assert found.mtbf_is_bound
    assert found.waste_ratio is found.wasted_units is None
    text = run_text(run_report([world.ledger]))
    assert "no failure was seen" in text
    assert "at least" in text


def test_several_runs_and_which_one_is_asked_for() -> None:
    """Each has its own page; a run that is not there is an error that says where to look."""
    world = World([PRICE], devices=2)
    world.read_all(0.9)
    for place, name in enumerate(("a", "b")):
        process = world.process(name, (place,), run="train", said=said("0", run=name))
        train(world, [process], range(2 + place))
    world.run(20 * SECOND, utilization=0.0)
    everything = run_report([world.ledger])
    assert [(row.key.run, row.kept_steps) for row in everything.runs] == [("a", 2), ("b", 3)]
    (one,) = run_report([world.ledger], run="b").runs
    assert one == everything.runs[1]
    with pytest.raises(LedgerError, match="no run 'c'"):
        run_report([world.ledger], run="c")
    assert [line.split()[:3] for line in run_table(everything).splitlines()[2:]] == [
        ["train", "a", "1"],
        ["train", "b", "1"],
    ]


def test_ledgers_that_cannot_be_added(tmp_path: Path) -> None:
    """One ledger twice would count everything twice; two currencies have no sum."""
    for name, currency in (("a", "USD"), ("b", "EUR")):
        Ledger.open(
            tmp_path / name, node=name, cluster=None, currency=currency, version="0",
            clock=ManualClock(),
        ).close()  # fmt: skip
    with (
        LedgerReader.of(tmp_path / "a") as one,
        LedgerReader.of(tmp_path / "a") as same,
        LedgerReader.of(tmp_path / "b") as other,
    ):
        with pytest.raises(LedgerError, match="give each once"):
            run_report([one, same])
        with pytest.raises(LedgerError, match="EUR, USD, which cannot be added"):
            run_report([one, other])


def test_a_period_cuts_steps_and_cost_alike() -> None:
    """Whole hours: what lies outside is in neither the steps nor the cost."""
    world = World([PRICE], realtime_ns=494_445 * HOUR + HOUR - 60 * SECOND)
    world.read_all(0.9)
    processes = start(world, "0")
    train(world, processes, range(40))
    world.run(140 * SECOND, utilization=0.0)
    edge = 494_446 * HOUR
    whole = the_run(world)
    parts = [run_report([world.ledger], *period).runs[0] for period in ((None, edge), (edge, None))]
    assert whole.finished_steps == sum(part.finished_steps for part in parts) == 40
    assert whole.total == sum((part.total for part in parts), Quantity())


def test_data_for_programs() -> None:
    """JSON has every figure twice exact, CSV the lines; a name is no formula."""
    world = World([PRICE])
    world.read_all(0.9)
    process = world.process("p", (0,), run="train", said=said("0", run="=1+1"))
    train(world, [process], range(3))
    world.run(20 * SECOND, utilization=0.0)
    report = run_report([world.ledger])
    document = json.loads(run_json(report))
    (run,) = document["runs"]
    assert run == json.loads(json.dumps(run_documents(report)))[0]
    assert (run["run"], run["kept_steps"], run["attempts"][0]["outcome"]) == ("=1+1", 3, "running")
    assert sum(line["total"]["units"] for line in run["lines"]) == run["total"]["units"]
    rows = list(csv.DictReader(io.StringIO(run_csv(report))))
    assert {row["run"] for row in rows} == {"'=1+1"}
    assert sum(int(row["units"]) for row in rows) == run["total"]["units"]


def test_every_category_and_phase_has_a_line() -> None:
    """The lines are closed over the closed sets: nothing falls through, lost is lost."""
    for category in Category:
        for phase in Phase:
            for loss in ("rolled_back", "process_died", "hang"):
                line = run_line(category, phase, loss, restarted=True)
                assert (line in LOST) == (category is Category.LOST)


def test_an_empty_ledger_has_no_runs() -> None:
    """Nothing is an answer."""
    world = World([PRICE])
    report = run_report([world.ledger])
    assert report.runs == ()
    assert "Run report" in run_text(report)


@settings(max_examples=settings().max_examples // 10, deadline=None)
@given(
    seed=st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(0, 7)), min_size=1, max_size=4
    ),
    price=st.sampled_from([Fraction(3_600 * DOLLARS), Fraction(98_320_000_000_000, 7)]),
)
def test_lines_always_add_up(seed: list[tuple[int, int, int]], price: Fraction) -> None:
    """Whatever restarts there are, and before and after the agent has posted what was lost."""
    world = World([rate(price)], devices=2)
    world.read_all(0.9)
    reached = 0
    for attempt, (ranks, more, back) in enumerate(seed):
        processes = start(world, str(attempt), ranks=min(ranks, 2), restarts=attempt)
        world.run(2 * SECOND, utilization=0.3)
        first = max(0, reached - back)
        train(world, processes, range(first, first + more), seconds=1)
        reached = first + more
        for process in processes:
            process.start(SpanKind.STEP, world.now_ns, step=reached)
        world.run(3 * SECOND, utilization=0.9)
        run_report([world.ledger])
        for row in run_report([world.ledger]).runs:
            check(row, world)
        kill(world, processes)
    world.run(140 * SECOND, utilization=0.0)
    row = the_run(world)
    assert not any(line.derived.device_ns for line in row.lines)
    assert row.kept_steps <= row.finished_steps


def test_new_prices_follow_what_was_lost() -> None:
    """Prices applied after a restart go where its cost went, and the book still proves itself."""
    world = World([PRICE])
    world.read_all(0.9)
    first = start(world, "0")
    train(world, first, range(6))
    kill(world, first)
    world.run(140 * SECOND, utilization=0.0)
    train(world, start(world, "1"), range(2, 6))
    for _ in range(70):
        world.clock.advance(60 * SECOND)
        world.read_all(0.0)
        world.tick()
    before = the_run(world)
    table = PriceTable((rate(2 * 3600 * DOLLARS),))
    done = apply_prices(world.ledger, "n", table, None, None)
    assert done.lines
    after = the_run(world)
    first_hour = {RunLine.STEPS, RunLine.ROLLED_BACK, RunLine.HANG, RunLine.BETWEEN_STEPS}
    for line in first_hour:
        sums = [row.sum_of(frozenset({line})) for row in (before, after)]
        assert sums[0].device_ns == sums[1].device_ns > 0
        assert (sums[0].units or 0) * 2 == sums[1].units
    result = audit(world.ledger)
    assert result.holds, audit_text(result)


def test_a_random_name_leaves_room_for_the_times() -> None:
    """Where no launcher counts, attempts have long names: it is they that are cut."""
    world = World([PRICE], devices=1)
    world.read_all(0.9)
    train(world, start(world, "7b4a18406f4bc7a1", ranks=1), range(3))
    world.run(60 * SECOND, utilization=0.0)
    text = run_text(run_report([world.ledger]))
    attempts, costs = text[text.index("Attempts") :].split("What they cost")
    assert "1 (7b4a..)" in attempts
    assert "2026-05-28 20:30:00Z" in attempts
    assert "1 (7b4a18406f4bc7a1)" in costs
