"""Requests that a door tells of at their end, while it tells of their engine's iterations."""

from __future__ import annotations

import numpy as np
from benchmarks.evaluation.engine import made_up
from tests.agent.pipeline.test_iterations import Run, due, simulated
from tests.agent.pipeline.test_request_needs import MODEL, PRICE
from tests.agent.pipeline.world import SECOND, Process, World, records_of
from tests.agent.pipeline.world import Span as Truth

from apportion.agent.pipeline.merged_iterations import iterations_of
from apportion.agent.pipeline.untold_requests import RECENT_NS, SILENT_NS, UntoldRequests
from apportion.client import layout
from apportion.core.category import SpanKind
from apportion.cost.audit import audit
from apportion.cost.methods.names import Method

LONGEST_S = 60


class Engine:
    """An engine whose door says each pass when it ends, zeros each idle second, requests last."""

    def __init__(self, world: World) -> None:
        self.world, self.passes = world, 0
        self.door: Process = world.process("door", run="chat")
        self.door.workload, self.door.model = "chat", MODEL
        world.read_all(0.0)

    def passed(self, start_ns: int, end_ns: int, *counts: int) -> None:
        """A forward pass."""
        self.door.iterate(self.passes, start_ns, end_ns, *counts)
        self.passes += 1

    def idle(self, seconds: int) -> None:
        """Nothing to do."""
        for _ in range(seconds):
            self.world.run(SECOND, utilization=0.0)
            self.passed(self.world.now_ns, self.world.now_ns, 0, 0, 0, 0)
            self.world.tick()

    def answered(
        self, start_ns: int, first_ns: int, end_ns: int, tokens: tuple[int, int, int]
    ) -> int:
        """A request has ended; its number."""
        one = self.door.start(SpanKind.REQUEST, start_ns, scheduled_ns=start_ns)
        one.first_token_ns, one.tokens, one.cached = first_ns, tokens[:2], tokens[2]
        one.flags = layout.FLAG_NO_OPEN_SLOT
        self.door.finish(one, end_ns)
        return one.number

    def play(self, run: Run) -> dict[int, tuple[Process, int]]:
        """All of a run, a tick each two seconds."""
        origin_ns, trace, counts = self.world.now_ns + SECOND, run.trace, run.counts
        events = [(int(at), 0, index) for index, at in enumerate(counts.end_ns)]
        events += [(int(at), 1, index) for index, at in enumerate(trace.finish_ns)]
        found: dict[int, tuple[Process, int]] = {}
        for at_ns, what, index in sorted(events):
            time_ns = origin_ns + at_ns
            while self.world.now_ns + SECOND < time_ns:
                self.world.run(SECOND, utilization=0.9)
                self.world.tick()
            if what == 0:
                columns = (counts.prefill_requests, counts.prefill_tokens)
                all_of = (*columns, counts.decode_requests, counts.decode_tokens)
                start_ns = time_ns - int(counts.elapsed_ns[index])
                self.passed(start_ns, time_ns, *(int(column[index]) for column in all_of))
            else:
                times = (trace.start_ns, trace.first_token_ns, trace.finish_ns)
                sizes = (trace.input_tokens, trace.output_tokens, trace.cached_input_tokens)
                begun_ns, first_ns, end_ns = (origin_ns + int(each[index]) for each in times)
                given, made, cached = (int(each[index]) for each in sizes)
                number = self.answered(begun_ns, first_ns, end_ns, (given, made, cached))
                found[index] = self.door, number
        return found


def engine_of(world: World) -> Engine:
    """One that has answered a long request before."""
    engine = Engine(world)
    engine.idle(2)
    begun_ns = world.now_ns
    world.run(LONGEST_S * SECOND, utilization=0.9)
    engine.answered(begun_ns, begun_ns + SECOND, world.now_ns, (100, 50, 0))
    engine.idle(20)
    return engine


def test_a_device_waits_for_what_its_door_tells_at_the_end() -> None:
    """By the batches, as a replay says, and nothing has to be moved."""
    world = World([PRICE])
    engine = engine_of(world)
    before = len(world.rows("charge"))
    run = simulated(made_up(30, 3))
    numbers = engine.play(run)
    engine.idle(15)
    rows = world.rows("charge")[before:]
    mine = {number for _, number in numbers.values()}
    assert {row["method_key"] for row in rows if row["number"] in mine} == {
        int(Method.ROOFLINE_COUNTS)
    }
    sums = dict.fromkeys(mine, 0)
    for row in rows:
        if row["number"] in mine:
            sums[row["number"]] += row["units"]
    whole, _ = due(run)
    got = np.array([sums[numbers[index][1]] for index in range(run.trace.size)])
    np.testing.assert_allclose(got, whole, rtol=1e-6, atol=1e4)
    assert not [row for row in rows if row["reason"]]
    assert audit(world.ledger).holds


def test_without_work_nothing_waits() -> None:
    """An engine that says that it is idle holds no device, however long its requests were."""
    world = World([PRICE])
    engine_of(world)
    (device,) = world.settlement.metered.settling
    assert world.node(world.now_ns) - device.settled_ns < 10 * SECOND


def passes(*rows: tuple[int, int, int]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Iterations: engine, end in seconds, requests in decode."""
    spans = [
        Truth(number, SpanKind.ITERATION, end_s * SECOND, end_ns=end_s * SECOND, step=number)
        for number, (_, end_s, _) in enumerate(rows, 1)
    ]
    records = records_of(spans)
    records["engine"] = [engine for engine, _, _ in rows]
    records["micro_batches"] = [decoding for _, _, decoding in rows]
    records["samples"] = 0
    return iterations_of(records, 0)


def answers(
    *spans: tuple[int, int], flags: int = layout.FLAG_NO_OPEN_SLOT
) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Requests: start and end in seconds."""
    truths = [
        Truth(number, SpanKind.REQUEST, start_s * SECOND, end_ns=end_s * SECOND, flags=flags)
        for number, (start_s, end_s) in enumerate(spans, 1)
    ]
    return records_of(truths)


def test_how_long_it_waits() -> None:
    """By the longest of late, since all engines were idle; an engine that is gone holds nothing."""
    untold = UntoldRequests()
    untold.told(1, answers((0, 99)), 0)
    assert untold.since_ns(1, 100 * SECOND) is None  # of no engine
    untold.iterated(1, passes((0, 100, 3)))
    assert untold.since_ns(1, 100 * SECOND) is None  # of no request yet
    untold.told(1, answers((0, 90), flags=0), 0)
    assert untold.since_ns(1, 100 * SECOND) is None  # its requests are seen while they run
    untold.told(1, answers((60, 90), (80, 95)), 0)
    assert untold.since_ns(1, 100 * SECOND) == 70 * SECOND
    untold.iterated(1, passes((0, 101, 0), (1, 101, 3)))
    assert untold.since_ns(1, 102 * SECOND) == 72 * SECOND  # engine 1 was never seen idle
    untold.iterated(1, passes((1, 103, 0), (0, 104, 3)))
    assert untold.since_ns(1, 105 * SECOND) == 101 * SECOND
    late_ns = 104 * SECOND + SILENT_NS
    assert untold.since_ns(1, late_ns) is not None
    assert untold.since_ns(1, late_ns + 1) is None
    later_s = 96 + RECENT_NS // SECOND
    untold.told(1, answers((later_s - 5, later_s)), 0)
    untold.iterated(1, passes((0, later_s, 3)))
    assert untold.since_ns(1, later_s * SECOND) == (later_s - 5) * SECOND
    untold.forget(1)
    assert untold.since_ns(1, later_s * SECOND) is None
