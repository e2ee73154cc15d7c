"""One request that a server and doors tell of is charged once, as by one alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.agent.pipeline.world import DOLLARS, SECOND, World, rate, records_of
from tests.agent.pipeline.world import Span as Truth

from apportion.agent.ingest import (
    OPEN_SLOT,
    DirectoryPoll,
    DirectoryState,
    HeaderState,
    Identity,
    Poll,
    Position,
    RingIdentity,
)
from apportion.agent.pipeline import door_polls
from apportion.agent.pipeline.door_polls import BOUND_NS
from apportion.agent.pipeline.intake import Intake
from apportion.agent.pipeline.told_requests import ToldRequests
from apportion.client import layout
from apportion.core.category import SpanKind
from apportion.core.ids import RingId
from apportion.cost.ledger.history import History, RequestRow

SERVER, DOOR, SECOND_DOOR = (RingId(letter * 32) for letter in "abc")
KINDS = {SERVER: None, DOOR: layout.DOOR, SECOND_DOOR: layout.DOOR}
TRACE, PARENT = bytes(range(1, 17)), bytes(range(1, 9))


class Asked(NamedTuple):
    """A request as one ring says it; times in seconds after the beginning."""

    name: str
    start_s: float
    end_s: float
    traced: bool = False


HANGS = Asked("hangs", 0, 0)


class Node:
    """An agent that polls several rings of one workload, or of several, with one device."""

    def __init__(self, workloads: Mapping[RingId, str] = MappingProxyType({})) -> None:
        self.world = World([rate(3600 * DOLLARS)])
        self.workloads = workloads
        self.begun_ns = self.world.now_ns
        self.intake = Intake(self.world.settlement, self.world.time)
        self.positions = {ring: Position() for ring in KINDS}
        self.attached: set[RingId] = set()
        self.world.read_all()

    def _identity(self, ring: RingId) -> RingIdentity:
        said = Identity(workload=self.workloads.get(ring, "chat"), kind=KINDS[ring])
        ids = (ring, 1, 1, 1000, self.world.boot)
        return RingIdentity(*ids, self.begun_ns, None, None, 0, 64, said)

    def records(self, ring: RingId, asked: Sequence[Asked]) -> Any:
        """What a ring says next."""
        first = self.positions[ring].read
        times = [
            (self.begun_ns + int(each.start_s * SECOND), self.begun_ns + int(each.end_s * SECOND))
            for each in asked
        ]
        truths = [
            Truth(first + number, SpanKind.REQUEST, start, end_ns=end, sequence=first + number)
            for number, (start, end) in enumerate(times, 1)
        ]
        records = records_of([replace(truth, tokens=(10, 5)) for truth in truths])
        for record, each in zip(records, asked, strict=True):
            text = each.name.encode()
            if ring == SERVER:
                record["number"] = _number(each)
            record["request_id"] = len(text).to_bytes(2, "little") + text + bytes(62 - len(text))
            if each.traced:
                record["trace_id"], record["trace_parent"] = TRACE, PARENT
        return records

    def poll(
        self,
        said: Mapping[RingId, Sequence[Asked]] = MappingProxyType({}),
        *,
        running: Sequence[Asked] = (),
        closed: Sequence[RingId] = (),
        raw: Mapping[RingId, Any] = MappingProxyType({}),
    ) -> None:
        """One poll: what rings say for the first time, and what the server has open.

        `raw` are records as they are, of rings that say nothing else.
        """
        new = [ring for ring in said if ring not in self.attached]
        self.attached.update(new)
        polls: dict[RingId, Poll] = {}
        for ring in self.attached:
            records = raw.get(ring, self.records(ring, said.get(ring, ())))
            read = self.positions[ring].read + len(records)
            self.positions[ring] = Position(read=read, end_ns=self.world.now_ns)
            slots = np.zeros(len(running) if ring == SERVER else 0, OPEN_SLOT)
            for slot, each in zip(slots, running, strict=False):
                slot["start_ns"] = self.begun_ns + int(each.start_s * SECOND)
                slot["number"], slot["step"] = _number(each), -1
                slot["packed"] = int(SpanKind.REQUEST)
            polls[ring] = Poll(
                ring,
                records,
                np.zeros(len(records), np.bool_),
                slots,
                0,
                0,
                0,
                (),
                self.positions[ring],
                0,
                (),
                (),
                HeaderState(closed_ns=self.world.now_ns if ring in closed else None),
                alive=ring not in closed,
                finished=ring in closed,
            )
        self.intake.take(
            DirectoryPoll(
                DirectoryState.READY,
                "",
                MappingProxyType(polls),
                tuple(self._identity(ring) for ring in new),
                (),
                (),
                MappingProxyType({}),
                0,
                0,
            ),
            self.world.now_ns,
        )
        for followed in self.intake.followed.values():
            if not followed.holds_nothing:
                keys = self.world.device_keys((0,))
                now_ns = self.world.node(self.world.now_ns)
                self.world.settlement.bound(followed.state, keys, "user", now_ns)

    def tick(self) -> None:
        """Settle, and do what the engine does after a commit."""
        world = self.world
        now_ns = world.node(world.now_ns)
        world.settlement.tick(now_ns, now_ns, world.ledger)
        if self.intake.doors.is_wanted:
            with world.ledger.read() as connection:
                history = History(connection, world.ledger.load_state(0).agent_id)
                self.intake.doors.restore(history.requests_since(0))

    def pass_s(self, seconds: int) -> None:
        """Time goes by: readings, polls, ticks."""
        for second in range(1, seconds + 1):
            self.world.clock.advance(SECOND)
            self.world.read_all(0.9)
            self.poll()
            if second % 5 == 0:
                self.tick()

    def unsaved(self) -> int:
        """How many spans the settlement has been given since the last tick."""
        return self.world.settlement.unsaved_spans

    def requests(self) -> list[str]:
        """Ids in the ledger."""
        return sorted(row["request_id"] for row in self.world.rows("span"))

    def costs(self) -> dict[tuple[Any, ...], int]:
        """Units by category and workload, posted and running."""
        entities = {row["entity_key"]: row["workload"] for row in self.world.rows("entity")}
        found: Counter[tuple[Any, ...]] = Counter()
        for table in ("charge", "accrual"):
            for row in self.world.rows(table):
                found[row["category"], entities.get(row["entity_key"])] += row["units"] or 0
        return {key: units for key, units in found.items() if units}


def _number(asked: Asked) -> int:
    """Of a server's request, from before it has ended."""
    return 1 + sum(asked.name.encode())


def test_what_only_a_door_tells_of_is_charged() -> None:
    """Nothing waits where no server has a ring, once the ledger was asked who told of what."""
    node = Node()
    node.poll({DOOR: [Asked("a", 0, 1), Asked("b", 0, 1)]})
    node.tick()
    node.poll()
    node.tick()
    assert node.requests() == ["a", "b"]
    assert node.intake.counters.merged == 0


def test_two_samples_are_two_and_two_doors_are_one() -> None:
    """One door may tell of parts of a request under one id; what another says is no more."""
    node = Node()
    twice = [Asked("a", 0, 1), Asked("a", 0, 1)]
    node.poll({DOOR: twice})
    node.tick()
    node.poll({SECOND_DOOR: [*twice, Asked("b", 0, 1)]})
    node.pass_s(5)
    assert node.requests() == ["a", "a", "b"]
    assert node.intake.counters.merged == 2


@pytest.mark.parametrize(
    ("told", "again", "is_same"),
    [
        (Asked("a", 1, 4), Asked("a", 1.5, 3.5), True),
        (Asked("a", 1, 4), Asked("b", 1.5, 3.5), False),
        (Asked("a", 1, 2), Asked("a", 5, 6), False),
        (Asked("a", 1, 4, traced=True), Asked("resp_1", 1.5, 3.5, traced=True), True),
        (Asked("a", 1, 2, traced=True), Asked("resp_1", 5, 6, traced=True), False),
        (Asked("", 1, 4), Asked("", 1, 4), False),
    ],
)
def test_what_is_the_same(told: Asked, again: Asked, is_same: bool) -> None:
    """An id or the caller's span, at the same time; an id alone may be used again later."""
    node = Node()
    node.poll({DOOR: []})
    node.tick()
    node.poll({SERVER: [told]})
    node.poll({DOOR: [again]})
    node.pass_s(5)
    assert node.intake.counters.merged == is_same


def test_another_workload_is_another() -> None:
    """A gateway gives one id to all the servers that it asks for one request."""
    node = Node({SERVER: "embedder"})
    node.poll({SERVER: [Asked("a", 0, 1)], DOOR: [Asked("a", 0, 1)]})
    node.pass_s(5)
    node.pass_s(5)
    assert node.requests() == ["a", "a"]


def test_after_a_restart_the_ledger_knows() -> None:
    """What the server told the agent that was before is not told anew by a door."""
    node = Node()
    node.poll({SERVER: [Asked("a", 0, 1)]})
    node.pass_s(5)
    node.world.boot_agent()
    node.intake = Intake(node.world.settlement, node.world.time)
    node.attached.clear()
    node.poll({SERVER: [], DOOR: [Asked("a", 0, 1)]})
    node.pass_s(10)
    assert (node.requests(), node.intake.counters.merged) == (["a"], 1)


def test_the_first_word_of_a_door_is_of_what_was_told_before() -> None:
    """An agent has just started: the span of the caller's that a server named is known already."""
    node = Node()
    node.poll({SERVER: [Asked("a", 0, 1, traced=True)]})
    node.tick()
    node.poll({DOOR: [Asked("resp_1", 0, 1, traced=True)]})
    node.pass_s(10)
    assert (node.requests(), node.intake.counters.merged) == (["a"], 1)


def test_without_a_door_little_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What servers tell while nobody may tell of the same takes no room."""
    monkeypatch.setattr(door_polls, "MOST_UNASKED", 0)
    node = Node()
    node.poll({SERVER: [Asked("a", 0, 1, traced=True)]})
    node.tick()
    node.poll({DOOR: [Asked("resp_1", 0, 1, traced=True), Asked("a", 0, 1)]})
    node.pass_s(10)
    assert node.requests() == ["a", "resp_1"]


def test_nothing_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that hangs holds a door's back for so long, and so many of them."""
    node = Node()
    node.poll({SERVER: [], DOOR: []}, running=[HANGS])
    node.tick()
    node.poll({DOOR: [Asked("a", 0, 1)]}, running=[HANGS])
    node.world.clock.advance(BOUND_NS - 1)
    node.poll(running=[HANGS])
    assert not node.unsaved()
    node.world.clock.advance(1)
    node.poll(running=[HANGS])
    assert node.unsaved() == 1
    monkeypatch.setattr(door_polls, "MOST_HELD", 1)
    node.poll({DOOR: [Asked("b", 0, 1), Asked("c", 0, 1)]}, running=[HANGS])
    assert node.unsaved() == 3


def test_what_an_engine_did_waits_for_nobody() -> None:
    """Iterations are no requests: while a door's requests are held back, its engine's are known.

    And its ring has devices, else they would not be known to be those of the server's.
    """
    node = Node()
    node.poll({SERVER: [], DOOR: []}, running=[HANGS])
    node.tick()
    node.poll({DOOR: [Asked("a", 0, 1)]}, running=[HANGS])
    records = node.records(DOOR, [Asked("", 1, 2), Asked("b", 1, 2)])
    records["packed"][0] = int(SpanKind.ITERATION)
    node.poll(running=[HANGS], raw={DOOR: records})
    assert (node.world.settlement.iterations.counters.in_time, node.unsaved()) == (1, 0)
    assert node.intake.followed[DOOR].state.bindings
    assert node.intake.counters.accepted == 1


def test_a_door_that_ends_is_read_to_its_end() -> None:
    """Its last records wait as the others, and its ring is finished after them."""
    node = Node()
    node.poll({SERVER: [], DOOR: []})
    node.tick()
    node.poll({DOOR: [Asked("a", 0, 1)]}, closed=[DOOR])
    assert node.intake.finished() == []
    for _ in range(2):
        node.world.clock.advance(SECOND)
        node.poll(closed=[DOOR])
    assert node.intake.finished() == [DOOR]
    node.tick()
    assert node.requests() == ["a"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told longest ago is forgotten first."""
    monkeypatch.setattr("apportion.agent.pipeline.told_requests.MOST_KNOWN", 2)
    told = ToldRequests()
    told.restore([RequestRow("chat", 1, name, 0, SECOND) for name in "abc"], 0)
    node = Node()
    records = node.records(DOOR, [Asked(name, 0, 1) for name in "abc"])
    for name in ("start_ns", "end_ns"):
        records[name] -= node.begun_ns
    assert told.known("chat", 2, records).tolist() == [False, True, True]
    assert not told.known("chat", 1, records).any()
