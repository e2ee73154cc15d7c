"""Requests of a known model on a known device pay by need, as a replay of the same trace says."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from benchmarks.evaluation.engine import made_up, simulate
from tests.agent.pipeline.world import DOLLARS, SECOND, Process, Span, World, rate

from apportion.agent.pipeline.tick import TickOutcome
from apportion.core.category import Category, Phase, SpanKind
from apportion.core.device_facts import DeviceFacts
from apportion.cost.audit import audit
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.methods.model_catalogue import named_model
from apportion.cost.methods.names import Method
from apportion.cost.methods.roofline import Roofline
from apportion.cost.methods.trace import Trace
from apportion.cost.methods.windows import roofline_windows

PRICE = rate(3600 * DOLLARS)
"""A dollar a second."""
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def played(world: World, server: Process, trace: Trace) -> dict[int, int]:
    """Plays a trace in the world's time; the span's number of each request."""
    origin_ns = world.now_ns + SECOND
    events: list[tuple[int, int, int]] = []
    for index in range(trace.size):
        events.append((origin_ns + int(trace.start_ns[index]), 0, index))
        events.append((origin_ns + int(trace.first_token_ns[index]), 1, index))
        events.append((origin_ns + int(trace.finish_ns[index]), 2, index))
    spans: dict[int, Span] = {}
    second = 0
    for time_ns, what, index in sorted(events):
        while world.now_ns + SECOND < time_ns:
            world.run(SECOND, utilization=0.9)
            second += 1
            if second % 5 == 0:
                world.tick()
        if what == 0:
            spans[index] = server.start(SpanKind.REQUEST, time_ns, scheduled_ns=time_ns)
        elif what == 1:
            spans[index].first_token_ns = time_ns
        else:
            tokens = (int(trace.input_tokens[index]), int(trace.output_tokens[index]))
            spans[index].tokens = tokens
            server.finish(spans[index], time_ns)
    world.settle()
    return {index: span.number for index, span in spans.items()}


def served(seed: int = 3) -> tuple[World, Trace, dict[int, int]]:
    """A server under load on one device."""
    world = World([PRICE])
    server = world.process("chat")
    server.model = MODEL
    world.read_all(0.0)
    trace = simulate(made_up(80, seed)).trace
    return world, trace, played(world, server, trace)


def test_requests_pay_as_a_replay_of_them_says() -> None:
    """Ticks, open spans and hours change nothing: each request's cost is the trace's share."""
    world, trace, numbers = served()
    model, device = named_model(MODEL), DeviceFacts.named(world.infos[0].name)
    assert model is not None
    assert device is not None
    expected = roofline_windows(trace, Roofline.of(model, device))
    costs: dict[tuple[int, int], int] = defaultdict(int)
    for row in world.rows("charge"):
        if row["number"]:
            assert row["method_key"] == int(Method.ROOFLINE_WINDOWS)
            costs[row["number"], row["phase"]] += row["units"]
    got = np.array(
        [costs[n, Phase.PREFILL] + costs[n, Phase.DECODE] for _, n in sorted(numbers.items())]
    )
    prefill = np.array([costs[n, Phase.PREFILL] for _, n in sorted(numbers.items())])
    due = expected.seconds * DOLLARS
    np.testing.assert_allclose(got, due, rtol=1e-6, atol=1e4)
    np.testing.assert_allclose(
        prefill, expected.prefill / expected.weights * due, rtol=1e-5, atol=1e4
    )
    assert audit(world.ledger).holds
    assert not [r for r in world.rows("charge") if r["kind"] == ChargeKind.REALLOCATION]


def test_a_server_on_two_unlike_devices_pays_both_by_one_share() -> None:
    """One engine on two GPUs with rates of their own: each request has its share of both."""
    a100 = "NVIDIA A100-SXM4-80GB"
    world = World([PRICE, rate(1800 * DOLLARS, a100)], devices=2)
    world.infos[1] = replace(world.infos[1], name=a100)
    server = world.process("chat", (0, 1))
    server.model = MODEL
    world.read_all(0.0)
    trace = simulate(made_up(40, 9)).trace
    numbers = played(world, server, trace)
    model = named_model(MODEL)
    devices = [DeviceFacts.named(info.name) for info in world.infos]
    assert model is not None
    engine = Roofline.of(model, *(device for device in devices if device is not None))
    due = roofline_windows(trace, engine).seconds
    rates = {row["rate_key"]: row["device_name"] for row in world.rows("rate")}
    for name, dollars in ((world.infos[0].name, Fraction(1)), (a100, Fraction(1, 2))):
        costs: dict[int, int] = defaultdict(int)
        for row in world.rows("charge"):
            if row["number"] and rates[row["rate_key"]] == name:
                costs[row["number"]] += row["units"]
        got = np.array([costs[number] for _, number in sorted(numbers.items())])
        np.testing.assert_allclose(got, due * float(dollars * DOLLARS), rtol=1e-6, atol=1e4)
    assert audit(world.ledger).holds


def costs_by_span(*, crashes: bool) -> dict[int, int]:
    """Units of each request of a short trace; with crashes every other commit is the last."""
    world = World([PRICE])
    server = world.process("chat")
    server.model = MODEL
    world.read_all(0.0)
    tick = world.tick

    def dying(*, polled_ns: int | None = None) -> TickOutcome | None:
        world.ledger.crash_after = world.ticks % 2 == 0
        return tick(polled_ns=polled_ns)

    if crashes:
        world.tick = dying  # type: ignore[method-assign]
    played(world, server, simulate(made_up(30, 5)).trace)
    sums: dict[int, int] = defaultdict(int)
    for row in world.rows("charge"):
        if row["number"]:
            sums[row["number"]] += row["units"]
    assert audit(world.ledger).holds
    return dict(sums)


def test_an_agent_that_dies_between_ticks_changes_nothing() -> None:
    """What was open, begun and settled comes back from the ledger: the same amounts."""
    undisturbed, disturbed = costs_by_span(crashes=False), costs_by_span(crashes=True)
    assert undisturbed.keys() == disturbed.keys()
    for number, units in undisturbed.items():
        assert disturbed[number] == pytest.approx(units, abs=20)


def test_settlement_waits_for_a_running_request_but_not_for_ever() -> None:
    """Its tokens come when it ends; after ten minutes its presence has to do."""
    world = World([PRICE])
    server = world.process("chat")
    server.model = MODEL
    world.read_all(0.0)
    start_ns = world.node(world.now_ns)
    span = server.start(SpanKind.REQUEST, world.now_ns, scheduled_ns=world.now_ns)
    world.run(300 * SECOND, utilization=0.9)
    assert world.rows("watermark")[0]["settled_ns"] <= start_ns
    world.run(400 * SECOND, utilization=0.9)
    assert start_ns < world.rows("watermark")[0]["settled_ns"] < start_ns + 110 * SECOND
    span.first_token_ns, span.tokens = span.start_ns + SECOND, (100, 4_000)
    server.finish(span, world.now_ns)
    world.settle()
    direct = [row for row in world.rows("charge") if row["category"] == Category.DIRECT]
    assert sum(row["device_ns"] for row in direct) == 700 * SECOND
    assert audit(world.ledger).holds


def test_what_may_turn_out_to_have_run_is_waited_for() -> None:
    """An engine tells of an admission with the end: nothing has to be moved then."""
    world = World([PRICE])
    server = world.process("chat")
    server.model = MODEL
    world.read_all(0.0)
    begin = world.now_ns
    first = server.start(SpanKind.REQUEST, begin, scheduled_ns=begin)
    later = server.start(SpanKind.REQUEST, begin + SECOND, told_later=True)
    later.scheduled_ns = begin + 9 * SECOND  # as far as was known then
    first.first_token_ns, first.tokens = begin + SECOND, (100, 50)
    server.finish(first, begin + 4 * SECOND)
    world.run(30 * SECOND, utilization=0.9)
    assert world.rows("watermark")[0]["settled_ns"] <= world.node(later.start_ns)
    later.scheduled_ns, later.tokens = begin + 2 * SECOND, (100, 400)
    later.first_token_ns = begin + 3 * SECOND
    server.finish(later, world.now_ns)
    world.settle()
    lines = world.rows("charge")
    assert not [row for row in lines if row["kind"] == ChargeKind.REALLOCATION and row["number"]]
    times = {n: sum(r["device_ns"] for r in lines if r["number"] == n) for n in (1, 2)}
    assert sum(times.values()) == 30 * SECOND
    assert times[later.number] > 26 * SECOND
    assert audit(world.ledger).holds


def test_a_model_without_facts_shares_by_time() -> None:
    """No facts, no needs: the device is not held up, and the lines say so."""
    world = World([PRICE])
    server = world.process("chat")
    server.model = "nobody/knows"
    world.read_all(0.0)
    server.start(SpanKind.REQUEST, world.now_ns, scheduled_ns=world.now_ns)
    other = server.start(SpanKind.REQUEST, world.now_ns, scheduled_ns=world.now_ns)
    start_ns = world.node(world.now_ns)
    world.run(20 * SECOND, utilization=0.9)
    server.finish(other, world.now_ns)
    world.settle()
    assert world.rows("watermark")[0]["settled_ns"] > start_ns + 20 * SECOND
    (line,) = [row for row in world.rows("charge") if row["number"] == other.number]
    assert line["method_key"] == int(Method.TIME_SHARE)
    assert line["device_ns"] == 10 * SECOND


def test_a_step_has_its_devices_for_itself() -> None:
    """A trainer's lines name the method of trainers."""
    world = World([PRICE])
    trainer = world.process("train", run="train")
    world.read_all(0.0)
    step = trainer.start(SpanKind.STEP, world.now_ns, step=0)
    world.run(5 * SECOND, utilization=0.9)
    trainer.finish(step, world.now_ns)
    world.settle()
    (line,) = [row for row in world.rows("charge") if row["number"] == step.number]
    assert line["method_key"] == int(Method.STEP_EXCLUSIVE)
    names = {row["method_key"]: row["name"] for row in world.rows("method")}
    assert names == {int(method): method.label for method in Method}


def test_a_late_record_moves_cost_by_need_and_sums_to_zero() -> None:
    """A request behind a hole is learnt late: prefill and decode move as the method says."""
    world = World([PRICE])
    server = world.process("chat")
    server.model = MODEL
    world.read_all(0.0)
    begin = world.now_ns
    spans = [server.start(SpanKind.REQUEST, begin, scheduled_ns=begin) for _ in range(2)]
    for span, tokens in zip(spans, ((3_000, 200), (50, 10)), strict=True):
        span.first_token_ns, span.tokens = begin + SECOND, tokens
        server.finish(span, begin + 10 * SECOND)
    server.open.clear()
    server.delivered.add(1)
    world.run(20 * SECOND, utilization=0.9)
    world.tick()
    server.delivered.discard(1)
    world.run(20 * SECOND, utilization=0.9)
    moves = [row for row in world.rows("charge") if row["kind"] == ChargeKind.REALLOCATION]
    assert moves
    for name in ("device_ns", "units", "energy_mj"):
        assert sum(row[name] for row in moves) == 0
    given = {row["phase"] for row in moves if row["number"] == spans[0].number}
    assert given == {Phase.PREFILL, Phase.DECODE}
    totals: dict[int, int] = defaultdict(int)
    for row in world.rows("charge"):
        if row["number"]:
            totals[row["number"]] += row["units"]
    assert totals[spans[0].number] > totals[spans[1].number] > 0
    assert sum(totals.values()) == 10 * DOLLARS
    assert audit(world.ledger).holds
