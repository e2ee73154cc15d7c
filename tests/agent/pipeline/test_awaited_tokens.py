"""What a server does not know of its request a door adds, whoever of them is heard first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.test_door_polls import DOOR, SERVER, Asked, Node
from tests.agent.pipeline.world import SECOND

from apportion.agent.ingest import Position
from apportion.agent.ingest.record import NO_RECORDS
from apportion.agent.pipeline.awaited_tokens import BOUND_NS
from apportion.agent.pipeline.intake import Intake
from apportion.core.category import Category
from apportion.core.ids import RingId
from apportion.cost.audit import audit

FIELDS = ("input_tokens", "cached_input_tokens", "output_tokens")
TRUE = {
    name: dict(zip(FIELDS, sizes, strict=True))
    for name, sizes in {"a": (100, 30, 7), "b": (200, 0, 9)}.items()
}
ASKED = {"a": Asked("a", 1, 4), "b": Asked("b", 2, 6)}


class Telling(NamedTuple):
    """A ring tells of a request, knowing only some of its fields."""

    ring: Any
    name: str
    knows: frozenset[str]


SERVERS = [Telling(SERVER, name, frozenset()) for name in TRUE]
DOORS = [Telling(DOOR, name, frozenset(FIELDS)) for name in TRUE]


@st.composite
def tellings(draw: st.DrawFn) -> list[Telling]:
    """A server and a door tell of both requests, in any order; each knows some of each."""
    some = st.sampled_from([(), FIELDS, FIELDS[:1], FIELDS[2:], FIELDS[::2]])
    found = [Telling(ring, name, frozenset(draw(some))) for ring in (SERVER, DOOR) for name in TRUE]
    return draw(st.permutations(found))


class Heard(Node):
    """An agent beside a server and a door, which may be started again at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[RingId, list[Any]] = {SERVER: [], DOOR: []}

    def tell(self, telling: Telling, running: Sequence[Asked]) -> None:
        """One of them says one request."""
        records = self.records(telling.ring, [ASKED[telling.name]])
        for name in FIELDS:
            known = name in telling.knows
            records[name] = TRUE[telling.name][name] if known else -1
        self.said[telling.ring].append(records)
        self.poll(running=running, raw={telling.ring: records})

    def restart(self, running: Sequence[Asked]) -> None:
        """Another process of the agent reads again what was not committed."""
        tables = self.world.ledger.load_state(0).tables
        keys = {row[1]: row[0] for row in tables["ring"]}
        positions = {row[0]: json.loads(row[1])["read"] for row in tables["ring_position"]}
        self.world.boot_agent()
        self.intake = Intake(self.world.settlement, self.world.time)
        self.attached.clear()
        raw: dict[RingId, Any] = {}
        for ring, said in self.said.items():
            read = positions.get(keys.get(ring, 0), 0)
            before = 1 if ring == SERVER else 0
            rest = said[max(0, read - before) :]
            self.positions[ring] = Position(read=read)
            raw[ring] = np.concatenate([NO_RECORDS, *rest])
        self.poll(dict.fromkeys(raw, ()), running=running, raw=raw)


def books(steps: Sequence[tuple[Telling, int, bool]]) -> Heard:
    """What an agent has in its ledger that hears this, with seconds and restarts in between."""
    node = Heard()
    node.pass_s(7)
    node.poll({SERVER: [Asked("z", 0, 1)], DOOR: []})
    node.tick()
    running = dict(ASKED)
    for telling, gap, restarts in steps:
        if telling.ring == SERVER:
            del running[telling.name]
        node.tell(telling, list(running.values()))
        for _ in range(gap):
            node.world.clock.advance(SECOND)
            node.world.read_all(0.9)
            node.poll(running=list(running.values()))
        if restarts:
            node.restart(list(running.values()))
        node.tick()
    node.pass_s(30 - sum(gap for _, gap, _ in steps))
    node.tick()
    return node


def expected(steps: Sequence[tuple[Telling, int, bool]], name: str) -> dict[str, int | None]:
    """The server's word, and where it does not know how many tokens there were the door's, too."""
    knows = {telling.ring: telling.knows for telling, _, _ in steps if telling.name == name}
    known = set(knows[SERVER])
    if not known >= {"input_tokens", "output_tokens"}:
        known |= knows[DOOR]
    return {each: TRUE[name][each] if each in known else None for each in FIELDS}


@cache
def plain() -> dict[tuple[Any, ...], int]:
    """Where the server knows everything and nobody else tells."""
    return books([(Telling(SERVER, name, frozenset(FIELDS)), 0, False) for name in TRUE]).costs()


@settings(max_examples=8, deadline=None)
@given(tellings(), st.lists(st.integers(0, 3), min_size=4, max_size=4), st.sets(st.integers(0, 3)))
@example([*SERVERS, *DOORS], [0, 3, 0, 0], {1})
@example([*DOORS, *SERVERS], [0, 3, 0, 0], {1, 2})
@example([*SERVERS, *(Telling(DOOR, each, frozenset()) for each in "ba")], [0, 0, 1, 0], set())
@example([SERVERS[0], DOORS[1], DOORS[0], SERVERS[1]], [3, 3, 3, 3], {0, 1, 2, 3})
def test_one_request_with_the_tokens_of_both(
    order: list[Telling], gaps: list[int], restarts: set[int]
) -> None:
    """In any order, whoever knows what, over restarts: one request, no token lost or twice."""
    steps = [(each, gaps[index], index in restarts) for index, each in enumerate(order)]
    node = books(steps)
    rows = {row["request_id"]: row for row in node.world.rows("span")}
    assert node.requests() == ["a", "b", "z"]
    for name in TRUE:
        assert {each: rows[name][each] for each in FIELDS} == expected(steps, name)
    assert audit(node.world.ledger).holds
    costs = node.costs()
    # What else was idle, and what not known, may differ where a request is learnt late.
    direct = (int(Category.DIRECT), "chat")
    assert (costs[direct], sum(costs.values())) == (plain()[direct], sum(plain().values()))


def test_a_door_that_knows_no_better_holds_nothing_for_long() -> None:
    """After ten seconds the server's word stands as it is, and what comes later is left out."""
    node = Heard()
    node.poll({SERVER: [], DOOR: []})
    node.tick()
    node.tell(SERVERS[0], [])
    node.pass_s(BOUND_NS // SECOND - 1)
    assert node.requests() == []
    node.pass_s(6)
    assert node.requests() == ["a"]
    node.tell(DOORS[0], [])
    node.pass_s(6)
    assert (node.requests(), node.intake.counters.merged) == (["a"], 1)


def test_without_a_door_nothing_waits() -> None:
    """Nor where the door is another workload's, or has ended."""
    for doors in ({}, {DOOR: "embedder"}):
        node = Heard()
        node.workloads = doors
        node.poll({SERVER: [], **dict.fromkeys(doors, ())})
        node.tell(SERVERS[0], [])
        assert node.unsaved() == 1
    node = Heard()
    node.poll({SERVER: [], DOOR: []}, closed=[DOOR])
    node.tell(SERVERS[0], [])
    assert node.unsaved() == 1


def test_several_samples_are_nobody_s_tokens() -> None:
    """Two records of a door under one id may share a prompt or not: none of them is taken over."""
    node = Heard()
    node.poll({SERVER: [], DOOR: []})
    node.tick()
    for _ in range(2):
        node.tell(DOORS[0], [ASKED["a"]])
    node.tell(SERVERS[0], [])
    node.pass_s(15)
    (row,) = [row for row in node.world.rows("span") if row["request_id"] == "a"]
    assert [row[each] for each in FIELDS] == [None, None, None]
