"""What must not change who pays: the order of arrival, a late record, a step of the wall clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.world import DOLLARS, SECOND, Process, Span, World, rate

from apportion.core.category import SpanKind
from apportion.cost.audit import audit
from apportion.cost.ledger.batch import ChargeKind

PRICE = rate(3600 * DOLLARS)
COLUMNS = ("device_ns", "energy_mj", "units")
Amounts = dict[tuple[str, int], tuple[int, int, int]]

STORY = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.integers(1, 8),
        st.integers(1, 4_000),
        st.integers(1, 300),
        st.sampled_from(["chat", "search"]),
    ),
    min_size=2,
    max_size=8,
)
Story = list[tuple[int, int, int, int, str]]
"""Requests (start s, length s, prompt, answer, server)."""


def told(
    story: Story,
    *,
    order: Sequence[int] | None = None,
    late: Collection[int] = (),
    steps: Sequence[int] = (),
) -> tuple[Amounts, World]:
    """(ns, mJ, units) of each request of two servers on one device.

    `order` permutes delivery, `late` are delivered when their time is long settled, `steps` are
    how many seconds the wall clock is set by, one after another.
    """
    world = World([PRICE])
    spans = _written(world, story)
    held = [spans[index] for index in late]
    for server, span in held:
        server.delivered.add(span.sequence)
    waiting = list(steps)
    for second in range(25):
        world.clock.advance(SECOND)
        world.read(0, 0.9, 100_000 + 7_001 * second)
        if waiting and second % 3 == 2:
            world.clock.step_realtime(waiting.pop(0) * SECOND)
    for index in order or range(len(spans)):
        server, span = spans[index]
        world.deliver(server, [span.sequence])
    world.tick()
    world.run(30 * SECOND, utilization=0.9, used_mj=90_000)
    for server, span in held:
        server.delivered.discard(span.sequence)
    world.run(30 * SECOND, utilization=0.9, used_mj=90_000)
    assert audit(world.ledger).holds
    return _amounts(world), world


def _written(world: World, story: Story) -> list[tuple[Process, Span]]:
    """The story's spans, ended, in its order; sequences follow their ends, as in a ring."""
    servers = {name: world.process(name) for name in ("chat", "search")}
    world.read_all(0.0, 0)
    begin = world.now_ns + SECOND
    spans: list[tuple[Process, Span]] = []
    for start, _, prompt, answer, name in story:
        servers[name].model = "llama-3.1-8b"
        start_ns = begin + start * SECOND
        span = servers[name].start(SpanKind.REQUEST, start_ns, scheduled_ns=start_ns)
        span.first_token_ns, span.tokens = start_ns + SECOND // 2, (prompt, answer)
        spans.append((servers[name], span))
    ends = [span.start_ns + said[1] * SECOND for (_, span), said in zip(spans, story, strict=True)]
    for index in sorted(range(len(spans)), key=ends.__getitem__):
        server, span = spans[index]
        server.finish(span, ends[index])
    return spans


def _amounts(world: World) -> Amounts:
    servers = {str(process.ring): process.name for process in world.processes.values()}
    names = {row["ring_key"]: servers[row["ring"]] for row in world.rows("ring")}
    found: defaultdict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in world.rows("charge"):
        if row["number"]:
            sums = found[names[row["ring_key"]], row["number"]]
            for place, column in enumerate(COLUMNS):
                sums[place] += row[column]
    return {key: (sums[0], sums[1], sums[2]) for key, sums in found.items()}


@settings(max_examples=settings().max_examples // 10)
@given(STORY, st.data())
def test_records_in_any_order_pay_bit_identical_amounts(story: Story, data: st.DataObject) -> None:
    """Two servers' records, delivered in any order before their time is settled."""
    order = data.draw(st.permutations(range(len(story))))
    assert told(story, order=order)[0] == told(story)[0]


@settings(max_examples=settings().max_examples // 10)
@given(STORY, st.lists(st.sampled_from([-7_200, -61, -1, 1, 3_599, 86_400]), max_size=8))
def test_a_clock_that_is_set_changes_no_amount(story: Story, steps: list[int]) -> None:
    """Node time never steps: only what is displayed moves with the wall clock."""
    plain, before = told(story)
    stepped, after = told(story, steps=steps)
    assert stepped == plain
    lines = [[{**row, "agent_id": 0} for row in world.rows("charge")] for world in (before, after)]
    assert lines[0] == lines[1]
    assert len(after.rows("wall_offset")) >= len(before.rows("wall_offset"))


@settings(max_examples=settings().max_examples // 10)
@given(STORY, st.data())
def test_a_late_record_ends_with_the_amounts_of_a_punctual_one(
    story: Story, data: st.DataObject
) -> None:
    """What was settled without it moves, to a unit a line, and the moves sum to zero."""
    late = data.draw(st.sets(st.sampled_from(range(len(story))), min_size=1))
    punctual, _ = told(story)
    found, world = told(story, late=late)
    moves = [row for row in world.rows("charge") if row["kind"] == ChargeKind.REALLOCATION]
    assert moves
    for column in COLUMNS:
        assert sum(row[column] for row in moves) == 0
    assert found.keys() == punctual.keys()
    for key, amounts in punctual.items():
        assert found[key][0] == pytest.approx(amounts[0], abs=20)
        assert found[key][2] == pytest.approx(amounts[2], abs=20)
