"""From polls of the ring directory to the settlement: identities, records, open spans, deaths."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.agent.ingest import DirectoryState
from apportion.agent.ingest.record import open_words_of
from apportion.agent.pipeline.awaited_tokens import AwaitedTokens
from apportion.agent.pipeline.binding import RingSays
from apportion.agent.pipeline.door_polls import DoorPolls
from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.merged_iterations import of_engines
from apportion.agent.pipeline.open_root import OpenRoot
from apportion.client import layout
from apportion.core.category import SpanKind
from apportion.core.interval import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apportion.agent.ingest import DirectoryPoll, Poll, Position, RingIdentity
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.agent.pipeline.settlement import Settlement
    from apportion.core.ids import RingId

MAX_UNSAVED_SPANS: Final = 500_000
"""Beyond it rings are not read until the ledger takes what was; they lose the oldest, counted."""

GONE_NS: Final = 2_000_000_000
"""The reader keeps a span whose slot was cleared for a second; after this its record is lost."""
RETURN_NS: Final = 10_000_000_000
"""So long after the start a ring that the ledger knows has been found again, or is gone."""


@dataclass(slots=True)
class FollowedRing:
    """A ring that is being read: its state in the settlement and what it says of itself."""

    identity: RingIdentity
    state: RingState
    words: Sequence[str | None] = ()
    devices: Sequence[str] = ()
    safe_ns: int | None = None
    """Everything that ended before has been read; None: everything up to the last poll."""
    position: Position | None = None
    finished: bool = False
    since_ns: int | None = None
    """Node time of its first poll by this process."""
    reported: tuple[int, int] = (0, 0)
    resumed: tuple[int, int] | None = None
    """What the last poll said of a loaded checkpoint: (when, step)."""
    entities: dict[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])
    """Keys of those that its records go to, by tenant, model and adapter word."""
    awaits: bool = False
    """What it said last is held back: perhaps a door knows more of it."""
    speaks: bool = False
    """Of a door: it told of a request that nobody else had told of, or of an engine."""

    @property
    def is_door(self) -> bool:
        """Its writer was told of others' requests."""
        return self.identity.said.kind == layout.DOOR

    @property
    def holds_nothing(self) -> bool:
        """A door all of whose requests are others' has no devices of its own to hold."""
        return self.is_door and not self.speaks and not self.state.bindings

    @property
    def is_unbound(self) -> bool:
        """It may have work of its own, and no source names its devices."""
        return not self.state.bindings and not self.holds_nothing

    @property
    def says(self) -> RingSays:
        """What it says about its devices."""
        identity = self.identity
        return RingSays(
            identity.host_pid or identity.pid,
            identity.uid,
            identity.said.local_rank,
            identity.said.devices,
            self.devices,
            dict(identity.said.device_hints),
            in_order=bool(identity.said.parallel),
        )


@dataclass(slots=True)
class RingCounters:
    """Sums over all rings since the process started."""

    accepted: int = 0
    late: int = 0
    lost: int = 0
    abandoned: int = 0
    invalid: int = 0
    open_overflow: int = 0
    word_overflow: int = 0
    merged: int = 0


@dataclass(slots=True)
class Intake:
    """Feeds one settlement. `followed` are the rings that are read now."""

    settlement: Settlement
    time: NodeTime
    doors: DoorPolls = field(init=False)
    tokens: AwaitedTokens = field(default_factory=AwaitedTokens)
    followed: dict[RingId, FollowedRing] = field(default_factory=dict["RingId", FollowedRing])
    counters: RingCounters = field(default_factory=RingCounters)
    _started_ns: int | None = None
    _looked_for_missing: bool = False

    def __post_init__(self) -> None:
        self.doors = DoorPolls(self.time)

    def take(self, polled: DirectoryPoll, begun_ns: int) -> None:
        """Everything one poll brought; it began at `begun_ns` (host monotonic)."""
        for identity in polled.attached:
            self._attach(identity)
        for ring, poll in polled.polls.items():
            followed = self.followed[ring]
            if followed.is_door:
                self.doors.hold(followed, self._without_engines(followed, poll), begun_ns)
            else:
                self.tokens.hold(followed, poll, begun_ns)
        for followed, poll, polled_ns in self.tokens.due(
            self.followed.values(), self.doors, begun_ns
        ):
            self.doors.told(followed, poll)
            self._poll(followed, poll, polled_ns)
        for followed, poll in self.doors.due(self.followed.values(), begun_ns):
            self._poll(followed, poll, begun_ns)
        self.counters.merged = self.doors.merged
        if polled.state is DirectoryState.READY:
            self._end_missing(begun_ns)
        for refused in polled.refused:
            ring_state = self.followed.pop(refused.ring, None)
            if ring_state is not None:
                self.settlement.ended(ring_state.state, self.time.of(begun_ns))

    def _without_engines(self, ring: FollowedRing, poll: Poll) -> Poll:
        """What an engine did is nobody's request: it waits for nobody else to tell of it first."""
        engines = of_engines(poll.records)
        if not engines.any():
            return poll
        records, late = poll.records[engines], poll.late[engines]
        self.counters.accepted += records.size
        ring.speaks = True
        self.settlement.absorb(ring.state, records, late, lambda _tenant, _model, _adapter: 0)
        return replace(poll, records=poll.records[~engines], late=poll.late[~engines])

    def safe_ns(self) -> int | None:
        """Node time before which every ended span of every ring has been read."""
        bounds = [ring.safe_ns for ring in self.followed.values() if ring.safe_ns is not None]
        return min(bounds, default=None)

    def finished(self) -> list[RingId]:
        """Rings of dead processes that were read to their end."""
        return [ring for ring, followed in self.followed.items() if followed.finished]

    def forget(self, rings: Sequence[RingId]) -> None:
        """Their end is committed."""
        for ring in rings:
            self.followed.pop(ring, None)

    def _attach(self, identity: RingIdentity) -> None:
        self.followed[identity.ring] = FollowedRing(identity, self.settlement.attach(identity))

    def _end_missing(self, begun_ns: int) -> None:
        """Rings of the ledger whose files have gone: their processes will not be heard of again."""
        if self._started_ns is None:
            self._started_ns = begun_ns
        if begun_ns - self._started_ns < RETURN_NS or self._looked_for_missing:
            return
        self._looked_for_missing = True
        followed = {ring.state.key for ring in self.followed.values()}
        for key, ring in self.settlement.rings.items():
            if key not in followed:
                self.settlement.ended(ring, self.time.of(begun_ns))

    def _poll(self, ring: FollowedRing, poll: Poll, begun_ns: int) -> None:
        ring.words, ring.devices = poll.words, poll.devices
        self._count(ring, poll)
        self.settlement.absorb(
            ring.state,
            poll.records,
            poll.late,
            lambda tenant, model, adapter: self._entity(ring, tenant, model, adapter),
        )
        if not ring.finished:
            self._open_spans(ring, poll, begun_ns)
        if poll.state.ready_ns is not None:
            ring.state.started(self.time.of(poll.state.ready_ns))
        self._resumed(ring, poll)
        for window in poll.loss_windows:
            self.settlement.lost(
                ring.state,
                Interval(self.time.of(window.start_ns), self.time.of(window.end_ns)),
            )
        if poll.position is not ring.position:
            ring.position = poll.position
            self.settlement.position(ring.state, json.dumps(poll.position.to_json()))
        under_way = poll.pending - len(poll.position.holes)
        ring.safe_ns = self.time.of(poll.position.end_ns) if under_way > 0 else None
        if poll.finished and not ring.finished:
            ring.finished = True
            ended_ns = poll.state.closed_ns or begun_ns
            closed = poll.state.closed_ns is not None
            self.settlement.ended(ring.state, self.time.of(ended_ns), closed=closed)

    def _resumed(self, ring: FollowedRing, poll: Poll) -> None:
        """A loaded checkpoint, once two polls saw the same: its step and its time are two words."""
        said = poll.state.resumed
        if said is not None and (said == ring.resumed or not poll.alive):
            time_ns, step = said
            ring.state.progress.resumed(step, self.time.of(time_ns))
        ring.resumed = said

    def _open_spans(self, ring: FollowedRing, poll: Poll, begun_ns: int) -> None:
        spans = poll.open_spans
        roots = spans[spans["parent"] == 0] if len(spans) else spans
        # What a dead process had open ran for as long as it was seen alive, and no longer.
        seen_ns = begun_ns if poll.alive else poll.state.closed_ns
        self.settlement.observe(
            ring.state, [self._open_root(ring, root, poll, seen_ns) for root in roots]
        )
        now_ns = self.time.of(begun_ns)
        if ring.since_ns is None:
            ring.since_ns = now_ns
        if not poll.alive or poll.pending or not ring.state.open:
            return
        # A slot that was cleared without a record to come (overwritten, or finished by a fork).
        open_now = set(roots["number"].tolist()) if len(roots) else set[int]()
        # What an earlier process of the agent saw open shows again only after two looks.
        for number, span in list(ring.state.open.items()):
            if number not in open_now and now_ns - max(span.seen_ns, ring.since_ns) > GONE_NS:
                self.settlement.vanished(ring.state, number)

    def _count(self, ring: FollowedRing, poll: Poll) -> None:
        counters = self.counters
        counters.accepted += len(poll.records)
        counters.late += int(np.count_nonzero(poll.late))
        counters.lost += poll.lost
        counters.abandoned += poll.abandoned
        counters.invalid += poll.invalid
        overflow = (poll.state.open_overflow, poll.state.word_overflow)
        counters.open_overflow += max(0, overflow[0] - ring.reported[0])
        counters.word_overflow += max(0, overflow[1] - ring.reported[1])
        ring.reported = overflow

    def _open_root(
        self, ring: FollowedRing, slot: np.void, poll: Poll, seen_ns: int | None
    ) -> OpenRoot:
        words = [int(each) for each in open_words_of(slot["words"])]
        kind = int(slot["packed"]) >> layout.KIND_SHIFT & 0xFF
        times = [int(slot[name]) for name in ("start_ns", "scheduled_ns", "first_token_ns")]
        if seen_ns is None:
            seen_ns = max(*times, poll.position.end_ns)
        return OpenRoot(
            int(slot["number"]),
            SpanKind(kind),
            self._entity(ring, *words),
            self._node(times[0]),
            self._node(times[1]),
            self._node(times[2]),
            max(self.time.of(seen_ns), self._node(times[0])),
            int(slot["step"]),
            told_later=bool(int(slot["packed"]) >> layout.FLAGS_SHIFT & layout.FLAG_TOLD_LATER),
        )

    def _node(self, monotonic_ns: int) -> int:
        return self.time.of(monotonic_ns) if monotonic_ns else 0

    def _entity(self, ring: FollowedRing, *words: int) -> int:
        """By the words of tenant, model and adapter. An adapter is a model on top of the model."""
        known = ring.entities.get(words)
        if known is not None:
            return known
        said = ring.identity.said
        texts = [None if index == layout.NO_WORD else _word(ring, index) for index in words]
        tenant, model, adapter = texts
        who = EntityKey(said.workload, said.run, said.attempt, tenant, model)
        if adapter is not None:
            who = who._replace(model=adapter, base_model=model)
        entity = self.settlement.entity(who)
        # A word that was not read yet may still come; one that was never changes.
        if layout.OTHER_TEXT not in texts:
            ring.entities[words] = entity
        return entity


def _word(ring: FollowedRing, index: int) -> str:
    text = ring.words[index] if index < len(ring.words) else None
    return layout.OTHER_TEXT if text is None else text
