"""From polls of the ring directory to the settlement: identities, records, open spans, deaths."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.restore import run_entity
from apportion.agent.pipeline.ring_state import OpenRoot, RingState
from apportion.client import layout
from apportion.core.category import SpanKind
from apportion.core.interval import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apportion.agent.ingest import DirectoryPoll, Poll, RingIdentity
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.agent.pipeline.settlement import Settlement
    from apportion.core.ids import RingId

MAX_UNSAVED_SPANS: Final = 500_000
"""Beyond it rings are not read until the ledger takes what was; they lose the oldest, counted."""

_LINGER_NS: Final = 1_000_000_000
"""How long the reader itself keeps a span whose slot was cleared before its record came."""


@dataclass(slots=True)
class FollowedRing:
    """A ring that is being read: its state in the settlement and what it says of itself."""

    identity: RingIdentity
    state: RingState
    words: Sequence[str | None] = ()
    devices: Sequence[str] = ()
    safe_ns: int | None = None
    """Everything that ended before has been read; None: everything up to the last poll."""
    finished: bool = False
    reported: tuple[int, int] = (0, 0)


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


@dataclass(slots=True)
class Intake:
    """Feeds one settlement. `followed` are the rings that are read now."""

    settlement: Settlement
    time: NodeTime
    followed: dict[RingId, FollowedRing] = field(default_factory=dict["RingId", FollowedRing])
    counters: RingCounters = field(default_factory=RingCounters)

    def take(self, polled: DirectoryPoll, begun_ns: int) -> None:
        """Everything one poll brought; it began at `begun_ns` (host monotonic)."""
        for identity in polled.attached:
            self._attach(identity)
        for ring, poll in polled.polls.items():
            self._poll(self.followed[ring], poll, begun_ns)
        for refused in polled.refused:
            ring_state = self.followed.pop(refused.ring, None)
            if ring_state is not None:
                self.settlement.ended(ring_state.state, self.time.of(begun_ns))

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
        settlement, registry = self.settlement, self.settlement.registry
        known = {name: key for key, name in registry.rings.items()}
        state = settlement.rings.get(known.get(identity.ring, 0))
        if state is None:
            said = {
                "pid": identity.host_pid or identity.pid,
                "uid": identity.uid,
                "workload": identity.said.workload,
                "run": identity.said.run,
                "attempt": identity.said.attempt,
                "rank": identity.said.rank,
                "world_size": identity.said.world_size,
                "tags": dict(identity.said.tags),
                "resumed_from_step": identity.said.resumed_from_step,
            }
            key = registry.rings.key(identity.ring)
            start_ns = identity.process_start_ns or identity.init_ns
            state = RingState(
                key,
                run_entity(registry, said),
                self.time.of(identity.created_ns),
                identity.host_pid or identity.pid,
                process_start_ns=None if start_ns is None else self.time.of(start_ns),
            )
            row = (
                key,
                identity.ring,
                identity.boot_id.replace("-", ""),
                json.dumps(said),
                state.attached_ns,
                state.process_start_ns,
            )
            settlement.attach(identity, state, row)
        self.followed[identity.ring] = FollowedRing(identity, state)

    def _poll(self, ring: FollowedRing, poll: Poll, begun_ns: int) -> None:
        ring.words, ring.devices = poll.words, poll.devices
        self._count(ring, poll)
        if len(poll.records):
            self.settlement.absorb(
                ring.state,
                poll.records,
                poll.late,
                lambda tenant, model: self._entity(ring, tenant, model),
            )
        spans = poll.open_spans
        roots = spans[spans["parent"] == 0] if len(spans) else spans
        ring.state.observe([self._open_root(ring, root, begun_ns) for root in roots])
        open_now = set(roots["number"].tolist()) if len(roots) else set[int]()
        if poll.alive:
            # A slot that was cleared without a record to come (finished after a fork, say).
            gone = [number for number in ring.state.open if number not in open_now]
            for number in gone:
                seen_ns = ring.state.open[number].seen_ns
                if self.time.of(begun_ns) - seen_ns > 2 * _LINGER_NS and not poll.pending:
                    del ring.state.open[number]
        for window in poll.loss_windows:
            self.settlement.lost(
                ring.state,
                Interval(self.time.of(window.start_ns), self.time.of(window.end_ns)),
            )
        if len(poll.records) or poll.lost or poll.abandoned or poll.invalid or poll.finished:
            position = json.dumps(poll.position.to_json())
            self.settlement.position(ring.state, poll.ring, position)
        under_way = poll.pending - len(poll.position.holes)
        ring.safe_ns = self.time.of(poll.position.end_ns) if under_way > 0 else None
        if poll.finished and not ring.finished:
            ring.finished = True
            ended_ns = poll.state.closed_ns or begun_ns
            self.settlement.ended(ring.state, self.time.of(ended_ns))

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

    def _open_root(self, ring: FollowedRing, slot: np.void, begun_ns: int) -> OpenRoot:
        words = int(slot["words"])
        kind = int(slot["packed"]) >> layout.KIND_SHIFT & 0xFF
        return OpenRoot(
            int(slot["number"]),
            SpanKind(kind),
            self._entity(ring, words & 0xFFFFFFFF, words >> 32),
            self._node(slot["start_ns"]),
            self._node(slot["scheduled_ns"]),
            self._node(slot["first_token_ns"]),
            self.time.of(begun_ns),
            int(slot["step"]),
        )

    def _node(self, monotonic_ns: int) -> int:
        return self.time.of(int(monotonic_ns)) if monotonic_ns else 0

    def _entity(self, ring: FollowedRing, tenant: int, model: int) -> int:
        said = ring.identity.said
        return self.settlement.entity(
            EntityKey(
                workload=said.workload,
                run=said.run,
                attempt=said.attempt,
                tenant=self._word(ring, tenant),
                model=self._word(ring, model),
            )
        )

    def _word(self, ring: FollowedRing, index: int) -> str | None:
        if index == layout.NO_WORD:
            return None
        text = ring.words[index] if index < len(ring.words) else None
        return layout.OTHER_TEXT if text is None else text
