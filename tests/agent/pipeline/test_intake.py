"""From polls to the settlement: what is open, what died, what is gone."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from tests.agent.pipeline.world import SECOND, Process, Span, World, records_of

from apportion.agent.ingest import (
    OPEN_SLOT,
    DirectoryPoll,
    DirectoryState,
    HeaderState,
    Identity,
    LossWindow,
    Poll,
    Position,
    RingIdentity,
)
from apportion.agent.pipeline.intake import GONE_NS, RETURN_NS, Intake
from apportion.core.category import SpanKind, SpanStatus
from apportion.core.ids import RingId
from apportion.core.reading import DeviceInfo
from apportion.cost.audit import audit

RING = RingId("a" * 32)


class Feed:
    """One ring's polls as ingest would give them."""

    def __init__(self) -> None:
        self.world = World()
        self.intake = Intake(self.world.settlement, self.world.time)
        self.process = Process("p", RING, None, self.world.now_ns, "p", self.world.boot)
        self.given = 0
        self.position = Position()

    def identity(self) -> RingIdentity:
        """Whose ring it is."""
        created_ns = self.process.created_ns
        said = Identity(workload="p")
        ids = (RING, 1, 1, 1000, self.world.boot)
        return RingIdentity(*ids, created_ns, None, None, 0, 64, said)

    def poll(
        self,
        *,
        attach: bool = False,
        alive: bool = True,
        finished: bool = False,
        closed_ns: int | None = None,
        pending: int = 0,
        lost: tuple[LossWindow, ...] = (),
        hidden: set[int] | None = None,
    ) -> None:
        """The agent takes one poll."""
        fresh = self.process.written[self.given :]
        self.given = len(self.process.written)
        if fresh:
            self.position = Position(read=self.given, end_ns=max(span.end_ns for span in fresh))
        open_spans = np.zeros(0, OPEN_SLOT)
        shown = [s for s in self.process.open.values() if s.number not in (hidden or set())]
        if shown:
            open_spans = np.zeros(len(shown), OPEN_SLOT)
            for slot, span in zip(open_spans, shown, strict=True):
                slot["start_ns"], slot["number"] = span.start_ns, span.number
                slot["packed"], slot["step"] = int(span.kind), -1
        poll = Poll(
            ring=RING,
            records=records_of(fresh),
            late=np.zeros(len(fresh), np.bool_),
            open_spans=open_spans,
            lost=0,
            abandoned=0,
            invalid=0,
            loss_windows=lost,
            position=self.position,
            pending=pending,
            words=(),
            devices=(),
            state=HeaderState(closed_ns=closed_ns),
            alive=alive,
            finished=finished,
        )
        self.intake.take(
            DirectoryPoll(
                state=DirectoryState.READY,
                reason="",
                polls=MappingProxyType({RING: poll}),
                attached=(self.identity(),) if attach else (),
                died=(),
                refused=(),
                refused_total=MappingProxyType({}),
                waiting=0,
                unlisted=0,
            ),
            self.world.now_ns,
        )

    def start(self, kind: SpanKind = SpanKind.STEP) -> Span:
        """A span begins."""
        return self.process.start(kind, self.world.now_ns)

    def tick(self) -> None:
        """A device is read, and the agent ticks."""
        world = self.world
        now_ns = world.node(world.now_ns)
        world.settlement.tick(now_ns, now_ns, world.ledger)

    def rows(self) -> list[tuple[object, object]]:
        """(number, status) of the ledger's spans."""
        rows = self.world.rows("span")
        return sorted((row["number"], row["status"]) for row in rows)


def test_a_dead_process_loses_what_it_had_open_when_it_was_last_seen() -> None:
    """Not the time until somebody noticed; and only once, however often it is looked at."""
    feed = Feed()
    feed.poll(attach=True)
    feed.start()
    feed.world.clock.advance(SECOND)
    feed.poll()
    seen_ns = feed.world.now_ns
    feed.world.clock.advance(60 * SECOND)
    feed.poll(alive=False, pending=3)
    feed.poll(alive=False, finished=True)
    feed.poll(alive=False, finished=True)
    feed.tick()
    feed.poll(alive=False, finished=True)
    feed.tick()
    assert feed.rows() == [(1, SpanStatus.LOST)]
    (row,) = feed.world.rows("span")
    assert row["end_ns"] == feed.world.node(seen_ns)


def test_a_process_that_was_dead_when_the_agent_came_back_is_charged_what_is_known() -> None:
    """Its open span lasted at least until the last thing that it wrote."""
    feed = Feed()
    feed.start()
    done = feed.start(SpanKind.CHECKPOINT)
    feed.world.clock.advance(3 * SECOND)
    feed.process.finish(done, feed.world.now_ns)
    wrote_ns = feed.world.now_ns
    feed.world.clock.advance(600 * SECOND)
    feed.poll(attach=True, alive=False)
    feed.poll(alive=False, finished=True)
    feed.tick()
    lost = next(row for row in feed.world.rows("span") if row["status"] == SpanStatus.LOST)
    assert lost["end_ns"] == feed.world.node(wrote_ns)


def test_a_clean_end_is_known_to_the_nanosecond() -> None:
    """The header says when the process closed its ring."""
    feed = Feed()
    feed.poll(attach=True)
    feed.start()
    feed.world.clock.advance(SECOND)
    feed.poll()
    closed_ns = feed.world.now_ns + SECOND // 2
    feed.world.clock.advance(5 * SECOND)
    feed.poll(alive=False, closed_ns=closed_ns)
    feed.poll(alive=False, closed_ns=closed_ns, finished=True)
    feed.tick()
    (row,) = feed.world.rows("span")
    assert row["end_ns"] == feed.world.node(closed_ns)
    (position,) = feed.world.rows("ring_position")
    assert position["ended_ns"] == feed.world.node(closed_ns)


def test_a_span_whose_record_was_overwritten_ends_without_one() -> None:
    """Its slot is cleared and nothing is under way: how it ended is unknown."""
    feed = Feed()
    feed.poll(attach=True)
    span = feed.start()
    feed.world.clock.advance(SECOND)
    feed.poll()
    feed.world.clock.advance(GONE_NS + 1)
    feed.poll(hidden={span.number}, pending=1)
    assert feed.rows() == []
    feed.poll(hidden={span.number})
    feed.tick()
    assert feed.rows() == [(span.number, SpanStatus.OPEN)]


def test_a_span_that_outlasts_a_restart_of_the_agent_is_one_span() -> None:
    """The first looks of the new process show no open slot yet: it is not taken to be gone."""
    feed = Feed()
    feed.poll(attach=True)
    span = feed.start()
    feed.world.clock.advance(SECOND)
    feed.poll()
    feed.tick()
    feed.world.clock.advance(10 * SECOND)
    feed.world.boot_agent()
    feed.intake = Intake(feed.world.settlement, feed.world.time)
    feed.poll(attach=True, hidden={span.number})
    feed.world.clock.advance(SECOND)
    feed.poll()
    feed.process.finish(span, feed.world.now_ns)
    feed.poll()
    feed.tick()
    assert feed.rows() == [(span.number, SpanStatus.OK)]
    assert audit(feed.world.ledger).holds


def test_rings_whose_files_are_gone_after_a_restart_hold_nothing() -> None:
    """A ring of the ledger that is not found again has ended, and its open spans are lost."""
    feed = Feed()
    feed.poll(attach=True)
    feed.start()
    feed.world.clock.advance(SECOND)
    feed.poll()
    feed.tick()
    world = feed.world
    world.boot_agent()
    intake = Intake(world.settlement, world.time)
    empty = DirectoryPoll(
        state=DirectoryState.READY,
        reason="",
        polls=MappingProxyType({}),
        attached=(),
        died=(),
        refused=(),
        refused_total=MappingProxyType({}),
        waiting=0,
        unlisted=0,
    )
    intake.take(empty, world.now_ns)
    assert [ring.ended_ns for ring in world.settlement.rings.values()] == [None]
    world.clock.advance(RETURN_NS + 1)
    intake.take(empty, world.now_ns)
    assert None not in [ring.ended_ns for ring in world.settlement.rings.values()]
    feed.tick()
    assert feed.rows() == [(1, SpanStatus.LOST)]
    assert audit(world.ledger).holds


def test_what_is_under_way_holds_the_watermark_back() -> None:
    """Settlement may not pass records that were seen and are not believed yet."""
    feed = Feed()
    feed.poll(attach=True)
    assert feed.intake.safe_ns() is None
    span = feed.start()
    feed.world.clock.advance(SECOND)
    feed.process.finish(span, feed.world.now_ns)
    feed.poll(pending=5)
    assert feed.intake.safe_ns() == feed.world.node(span.end_ns)
    feed.poll()
    assert feed.intake.safe_ns() is None


def test_what_a_ring_says_of_its_devices_reaches_binding() -> None:
    """Identity, hints and the framework's words, as they are."""
    feed = Feed()
    feed.poll(attach=True)
    (followed,) = feed.intake.followed.values()
    says = followed.says
    assert (says.pid, says.uid, says.local_rank) == (1, 1000, None)
    assert isinstance(feed.world.infos[0], DeviceInfo)
