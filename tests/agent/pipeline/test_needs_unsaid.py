"""Requests of a known model of which the server said little: alike, they pay alike."""

from __future__ import annotations

from collections import defaultdict

import pytest
from tests.agent.pipeline.world import DOLLARS, SECOND, Process, Span, World, rate

from apportion.core.category import Phase, SpanKind
from apportion.cost.audit import audit

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
MICROSECOND = 1_000


def begun(world: World, server: Process, count: int) -> list[Span]:
    """Requests that come together."""
    start_ns = world.now_ns
    return [
        server.start(SpanKind.REQUEST, start_ns + index * MICROSECOND, scheduled_ns=start_ns)
        for index in range(count)
    ]


def ended(world: World, server: Process, spans: list[Span]) -> None:
    """They end together, as far as a clock can tell."""
    for index, span in enumerate(spans):
        span.tokens = (1_000, 500)
        server.finish(span, world.now_ns + index * MICROSECOND)


def paid(world: World) -> tuple[list[int], dict[int, int]]:
    """Units by span, in their order, and by phase."""
    by_span: dict[tuple[int, int], int] = defaultdict(int)
    by_phase: dict[int, int] = defaultdict(int)
    for row in world.rows("charge"):
        if row["number"]:
            by_span[row["ring_key"], row["number"]] += row["units"]
            by_phase[row["phase"] or 0] += row["units"]
    assert audit(world.ledger).holds
    return [units for _, units in sorted(by_span.items())], dict(by_phase)


@pytest.fixture
def world() -> World:
    made = World([rate(3600 * DOLLARS)])
    made.read_all(0.0)
    made.run(SECOND, utilization=0.9)
    return made


def serving(world: World, name: str = "chat") -> Process:
    server = world.process(name)
    server.model = MODEL
    return server


def test_without_first_tokens(world: World) -> None:
    """Answers that come whole: no order of microseconds decides who pays."""
    server = serving(world)
    spans = begun(world, server, 4)
    world.run(2 * SECOND, utilization=0.9)
    ended(world, server, spans)
    world.run(SECOND, utilization=0.0)
    world.settle()
    units, phases = paid(world)
    assert units == pytest.approx([sum(units) / 4] * 4, rel=1e-3)
    assert set(phases) == {0}


def test_first_tokens_of_one_iteration(world: World) -> None:
    """A batch's first tokens are told one after the other: their prefills shared its time."""
    server = serving(world)
    spans = begun(world, server, 4)
    world.run(SECOND, utilization=0.9)
    for index, span in enumerate(spans):
        span.first_token_ns = world.now_ns + index * 20 * MICROSECOND
    world.run(SECOND, utilization=0.9)
    ended(world, server, spans)
    world.run(SECOND, utilization=0.0)
    world.settle()
    units, phases = paid(world)
    assert units == pytest.approx([sum(units) / 4] * 4, rel=1e-2)
    assert set(phases) == {int(Phase.PREFILL), int(Phase.DECODE)}


def test_one_that_is_known_late_has_its_share(world: World) -> None:
    """What is moved to it is taken from where it was posted: no phase costs less than nothing."""
    server, door = serving(world, "chat"), serving(world, "door")
    start_ns = world.now_ns
    spans = begun(world, server, 2)
    world.run(2 * SECOND, utilization=0.9)
    end_ns = world.now_ns
    ended(world, server, spans)
    world.settle()
    late = door.start(SpanKind.REQUEST, start_ns, scheduled_ns=start_ns)
    late.tokens = (1_000, 500)
    door.finish(late, end_ns)
    world.settle()
    units, phases = paid(world)
    assert units == pytest.approx([sum(units) / 3] * 3, rel=1e-2)
    assert set(phases) == {0}
