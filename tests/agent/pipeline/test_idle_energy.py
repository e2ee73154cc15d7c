"""Energy above what a device draws at rest, in the running agent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from tests.agent.pipeline.world import DOLLARS, SECOND, Process, World, rate

from apportion.core.category import SpanKind
from apportion.cost.audit import audit
from apportion.cost.idle_power import IdleState
from apportion.cost.report import report
from apportion.cost.report_data import report_json
from apportion.cost.report_text import report_text

PRICE = rate(3600 * DOLLARS)
MODEL = "llama-3.1-8b"
REST_MJ, WORK_MJ = 100_000, 600_000
"""A second at rest, and at work."""


def server(world: World) -> Process:
    """A server whose requests are settled by need."""
    chat = world.process("chat", started_ns=world.now_ns)
    chat.model = MODEL
    world.read_all(0.0, 0)
    return chat


def served(
    world: World, chat: Process, tokens: Sequence[tuple[int, int]] = ((4_000, 900), (10, 2))
) -> list[int]:
    """Millijoules of requests that ran together for ten seconds."""
    begin = world.now_ns
    spans = [chat.start(SpanKind.REQUEST, begin, scheduled_ns=begin) for _ in tokens]
    world.run(10 * SECOND, utilization=0.9, used_mj=WORK_MJ)
    for span, counts in zip(spans, tokens, strict=True):
        span.first_token_ns, span.tokens = begin + SECOND, counts
        chat.finish(span, world.now_ns)
    world.run(80 * SECOND, utilization=0.0, used_mj=REST_MJ)
    used: Counter[int] = Counter()
    for row in world.rows("charge"):
        used[row["number"] or 0] += row["energy_mj"]
    return [used[span.number] for span in spans]


def powers(world: World) -> dict[int, int | None]:
    """The ledger's estimates by state."""
    return {row["state"]: row["power_mw"] for row in world.rows("idle_power")}


def test_until_a_rest_was_seen_all_energy_goes_by_need() -> None:
    """A device that was busy from the start has no power at rest, and its lines say so."""
    world = World([PRICE])
    large, small = served(world, server(world))
    assert large + small == 10 * WORK_MJ
    assert small < large
    busy = [row for row in world.rows("settlement") if row["energy_mj"] > 10 * REST_MJ]
    assert busy
    assert {row["idle_mw"] for row in busy} == {None}


def test_what_is_drawn_at_rest_is_shared_evenly() -> None:
    """The smaller request pays half of it, and its need of what exceeds it; together all."""
    world = World([PRICE])
    chat = server(world)
    alone = served(world, chat)[1]
    world.run(60 * SECOND, utilization=0.0, used_mj=REST_MJ)
    large, small = served(world, chat)
    assert large + small == 10 * WORK_MJ
    at_rest = 10 * REST_MJ
    due = at_rest // 2 + alone * (10 * WORK_MJ - at_rest) // (10 * WORK_MJ)
    assert abs(small - due) <= 100
    assert powers(world)[IdleState.LOADED] == REST_MJ
    last = max(world.rows("settlement"), key=lambda row: int(row["start_ns"]))
    assert last["idle_mw"] == REST_MJ
    settled = sum(row["energy_mj"] for row in world.rows("settlement"))
    assert settled == world.rows("watermark")[0]["settled_mj"]
    found = report(world.ledger)
    assert found.devices[0].idle_power_mw == {"loaded": REST_MJ}
    assert 0 < found.devices[0].by_weights_mj < settled
    (told,) = json.loads(report_json(found))["devices"]
    assert told["by_weights_mj"] == found.devices[0].by_weights_mj
    assert "(at rest: 100.0 W loaded)" in " ".join(report_text(found).split())
    assert audit(world.ledger).holds


def test_a_restart_keeps_what_was_learnt() -> None:
    """The estimate is in the ledger, with the samples behind it."""
    world = World([PRICE])
    server(world)
    world.run(100 * SECOND, utilization=0.0, used_mj=REST_MJ)
    samples = world.rows("idle_power")
    assert powers(world) == {IdleState.LOADED: REST_MJ}
    world.boot_agent()
    world.run(8 * SECOND, utilization=0.9, used_mj=WORK_MJ)
    world.run(20 * SECOND, utilization=0.0, used_mj=REST_MJ)
    assert world.rows("idle_power") == samples
    busy = [row for row in world.rows("settlement") if row["energy_mj"] > 10 * REST_MJ]
    assert {row["idle_mw"] for row in busy} == {REST_MJ}


def test_without_a_process_it_is_learnt_apart() -> None:
    """Nobody holds the device: that power stands in until one with a process is known."""
    world = World([PRICE])
    world.read_all(0.0)
    world.run(100 * SECOND, utilization=0.0, used_mj=40_000)
    assert powers(world) == {IdleState.EMPTY: 40_000}
    server(world)
    world.run(10 * SECOND, utilization=0.9, used_mj=WORK_MJ)
    world.settle()
    assert 40_000 in {row["idle_mw"] for row in world.rows("settlement")}
    world.users = ["uid:7"]
    assert powers(world).keys() == {IdleState.EMPTY}


def test_a_share_of_a_gpus_energy_is_no_power_of_its_own() -> None:
    """A MIG instance that rests is charged with what its neighbours use: nothing to learn from."""
    world = World([PRICE])
    world.energy_source = "energy_counter_share"
    world.read_all(0.0)
    world.run(100 * SECOND, utilization=0.0, used_mj=40_000)
    assert powers(world) == {}


def test_a_counter_that_starts_anew_is_no_rest() -> None:
    """A reset looks like no energy at all: it must not pull the estimate down."""
    world = World([PRICE])
    server(world)
    for _ in range(12):
        world.run(15 * SECOND, utilization=0.0, used_mj=REST_MJ)
        world.energy_mj[world.infos[0].device] = 0
    world.settle()
    samples = {
        int(sample) for row in world.rows("idle_power") for sample in str(row["samples"]).split(",")
    }
    assert samples <= {REST_MJ}
    world.run(100 * SECOND, utilization=0.0, used_mj=REST_MJ)
    assert powers(world) == {IdleState.LOADED: REST_MJ}
    assert audit(world.ledger).holds


def test_cost_that_moves_later_keeps_to_the_power_of_its_time() -> None:
    """A late record is apportioned by the power at rest that its settlements used: sum 0."""
    world = World([PRICE])
    chat = server(world)
    world.run(100 * SECOND, utilization=0.0, used_mj=REST_MJ)
    begin = world.now_ns
    spans = [chat.start(SpanKind.REQUEST, begin, scheduled_ns=begin) for _ in range(2)]
    for span, counts in zip(spans, ((4_000, 900), (10, 2)), strict=True):
        span.first_token_ns, span.tokens = begin + SECOND, counts
        chat.finish(span, begin + 10 * SECOND)
    chat.open.clear()
    chat.delivered.add(1)
    world.run(10 * SECOND, utilization=0.9, used_mj=WORK_MJ)
    world.run(80 * SECOND, utilization=0.0, used_mj=REST_MJ)
    chat.delivered.discard(1)
    world.run(80 * SECOND, utilization=0.0, used_mj=REST_MJ)
    used: Counter[int] = Counter()
    moved = 0
    for row in world.rows("charge"):
        used[row["number"] or 0] += row["energy_mj"]
        moved += row["energy_mj"] if row["reason"] == "learnt_late" else 0
    assert moved == 0
    large, small = (used[span.number] for span in spans)
    assert large + small == 10 * WORK_MJ
    assert small > 10 * REST_MJ // 2
    assert audit(world.ledger).holds
