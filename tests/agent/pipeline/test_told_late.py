"""In exact mode it does not matter when a server heard of its requests."""

from __future__ import annotations

import numpy as np
from benchmarks.evaluation.engine import made_up
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.test_iterations import charged, methods, played, server_of, simulated
from tests.agent.pipeline.test_request_needs import MODEL, PRICE
from tests.agent.pipeline.world import DOLLARS, SECOND, World

from apportion.agent.pipeline.engine_batches import TOLD_LATE_NS, as_it_ran
from apportion.agent.pipeline.engine_records import EngineRecords
from apportion.agent.pipeline.merged_iterations import ITERATION
from apportion.agent.pipeline.scheduled import SCHEDULED
from apportion.core.device_facts import DeviceFacts
from apportion.cost.audit import audit
from apportion.cost.methods.iteration_share import Batches
from apportion.cost.methods.model_catalogue import named_model
from apportion.cost.methods.names import Method
from apportion.cost.methods.roofline import Roofline
from apportion.cost.methods.shares import Busy
from apportion.cost.methods.two_part import roofline_two_part
from apportion.cost.settlement.work import ROOT

REQUESTS, MS = 12, 1_000_000
late_ms = st.lists(st.integers(0, 90), min_size=REQUESTS, max_size=REQUESTS)


@given(late_ms)
@settings(max_examples=4, deadline=None)
def test_times_that_are_told_late_change_only_what_lies_behind_the_last_batch(
    late: list[int],
) -> None:
    """Each pays as the true batches say; what differs is time that is told beyond all of them."""
    run = simulated(made_up(REQUESTS, 3))
    assert run.iterations is not None
    late_ns = np.array(late, np.int64) * MS
    world = World([PRICE])
    core, servers = world.process("core", run="chat"), server_of(world)
    numbers = played(world, servers, run._replace(late_ns=late_ns), lambda _, s: s[:0], core)
    assert methods(world) == {int(Method.ROOFLINE_TWO_PART)}
    model, device = named_model(MODEL), DeviceFacts.named("NVIDIA H100 80GB HBM3")
    assert model is not None
    assert device is not None
    due = roofline_two_part(run.trace, run.iterations, Roofline.of(model, device)).seconds
    got = np.zeros(REQUESTS)
    for (index, _), units in charged(world, numbers).items():
        got[index] += units / DOLLARS
    true = Busy.of(run.trace.start_ns, run.trace.finish_ns).total_ns
    beyond_s = (Busy.of(run.trace.start_ns, run.trace.finish_ns + late_ns).total_ns - true) / SECOND
    assert np.abs(got - due).sum() <= beyond_s + 1e-6
    assert audit(world.ledger).holds


def in_iteration(begun_ns: int, end_ns: int, settled_ns: int, rows: int = 1) -> list[list[int]]:
    """[start, end] of a request of [1000, 2000] that was in an iteration by its engine's word.

    `rows` are its device groups; times here are in ms.
    """
    spans = np.zeros(rows, ROOT)
    spans["number"], spans["ring"] = 7, 1
    spans["start_ns"], spans["end_ns"] = 1000 * MS, 2000 * MS
    one, none = np.array([0]), np.zeros(1, np.bool_)
    edges = (np.array([begun_ns * MS]), np.array([end_ns * MS]))
    batches = Batches(one, *edges, one, one, one, none, one, one)
    ran = as_it_ran(spans, batches, lambda _: settled_ns * MS)
    assert spans["start_ns"].tolist() == [1000 * MS] * rows
    return [[int(row["start_ns"]) // MS, int(row["end_ns"]) // MS] for row in ran]


def test_how_far_an_engine_moves_the_times_of_a_request() -> None:
    """Never inwards; not beyond what is settled, or its charge would wait; not by any amount."""
    assert in_iteration(900, 2100, 3000) == [[900, 2100]]
    assert in_iteration(1100, 1900, 3000) == [[1000, 2000]]
    assert in_iteration(900, 2100, 2050) == [[900, 2050]]
    assert in_iteration(900, 2100, 1500) == [[900, 2000]]
    assert in_iteration(900, 2100, 3000, rows=2) == [[1000, 2000]] * 2
    late_ms = TOLD_LATE_NS // MS
    assert in_iteration(-99 * late_ms, 2000, 3000) == [[1000 - late_ms, 2000]]


def test_turns_that_were_written_ahead_are_kept() -> None:
    """One ends, by its record, before the iteration that it is about has: that is needed still."""
    iterations, turns = np.zeros(3, ITERATION), np.zeros(3, SCHEDULED)
    iterations["end_ns"], iterations["index"] = [100, 200, 300], [0, 1, 2]
    turns["end_ns"], turns["first"] = [90, 150, 260], [0, 2, 3]
    kept = EngineRecords(iterations, turns).after(210)
    assert kept.iterations["index"].tolist() == [1, 2]
    assert kept.turns["first"].tolist() == [3]
    kept = EngineRecords(iterations, turns).after(190)
    assert kept.turns["first"].tolist() == [2, 3]
