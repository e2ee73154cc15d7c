"""What doors tell of, held back until the servers themselves could have told of the same.

A door hears of a request when it has ended. A server with a ring of its own writes it down at about
the same time, or later, when its caller has read the answer to its end. So records of a door wait
while a process of the same workload has a request open that began before they ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.ingest.record import NO_RECORDS
from apportion.agent.pipeline.told_requests import SLACK_NS, ToldRequests
from apportion.core.units import NS_PER_MINUTE, NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from apportion.agent.ingest import Poll
    from apportion.agent.ingest.record import Records
    from apportion.agent.pipeline.intake import FollowedRing
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.cost.ledger.history import RequestRow

READ_NS: Final = NS_PER_SECOND
"""After so long what a process wrote before has been read from its ring."""
BOUND_NS: Final = 10 * NS_PER_MINUTE
"""Longer than this nothing waits."""
MOST_HELD: Final = 100_000
"""Nor more records than this: 25 MB."""
RECENT_NS: Final = 2 * BOUND_NS
"""So far back the ledger is asked who told of what."""
MOST_UNASKED: Final = 1 << 13
"""So many names are remembered while there is no door: some seconds of a busy server, 2.5 MB."""

_NO_PARENT: Final = np.void(bytes(8))


class _Held(NamedTuple):
    poll: Poll
    since_ns: int


@dataclass(slots=True)
class DoorPolls:
    """The polls of doors' rings, from when they come until it is known what is new in them.

    Until `restore` was called once, after the first ring of a door came, all of them wait.
    """

    time: NodeTime
    merged: int = 0
    """Records of doors that were left out because others had told of their requests."""
    is_wanted: bool = False
    """A door is here, and the ledger's requests are not known yet."""
    _is_ready: bool = False
    _told: ToldRequests = field(default_factory=ToldRequests)
    _held: dict[int, deque[_Held]] = field(default_factory=dict[int, "deque[_Held]"])
    _workloads: dict[int, str | None] = field(default_factory=dict[int, "str | None"])
    _records: int = 0

    def restore(self, told: Iterable[RequestRow]) -> None:
        """Everything that has been read so far is in the ledger, and this is the latest of it."""
        self._told.restore(told, self.time.anchor_ns)
        self.is_wanted, self._is_ready = False, True

    def told(self, ring: FollowedRing, poll: Poll) -> None:
        """A server's own ring tells of its requests."""
        records = poll.records
        if not self._is_ready:  # the ledger will tell of ids, and knows no caller's spans
            records = records[records["trace_parent"] != _NO_PARENT]
        if records.size:
            self._told.add(ring.identity.workload, ring.state.key, records)
        if not self._is_ready:
            self._told.keep(MOST_UNASKED)

    def hold(self, ring: FollowedRing, poll: Poll, begun_ns: int) -> None:
        """A door's ring was polled at `begun_ns` (host monotonic)."""
        self._workloads[ring.state.key] = ring.identity.workload
        held = self._held.setdefault(ring.state.key, deque())
        if held and not poll.records.size and poll.finished == held[-1].poll.finished:
            return  # its position is that of the next poll, too
        self.is_wanted = not self._is_ready
        self._records += poll.records.size
        held.append(_Held(replace(poll, records=poll.records.copy()), begun_ns))

    def waiting(self, workload: str | None) -> Records:
        """What doors have told of a workload, and is held back."""
        found = [
            poll.records
            for ring, polls in self._held.items()
            if self._workloads[ring] == workload
            for poll, _ in polls
        ]
        return np.concatenate([NO_RECORDS, *found])

    def due(
        self, rings: Collection[FollowedRing], begun_ns: int
    ) -> Iterator[tuple[FollowedRing, Poll]]:
        """What has waited long enough, without the requests that others have told of."""
        for ring in rings:
            held = self._held.get(ring.state.key)
            while held and self._is_due(ring, held[0], rings, begun_ns):
                poll, _ = held.popleft()
                self._records -= poll.records.size
                yield ring, self._without_known(ring, poll)
            if held is not None and not held and ring.finished:
                del self._held[ring.state.key], self._workloads[ring.state.key]

    def _is_due(
        self,
        door: FollowedRing,
        held: _Held,
        rings: Iterable[FollowedRing],
        begun_ns: int,
    ) -> bool:
        records, age_ns = held.poll.records, begun_ns - held.since_ns
        if not records.size:
            return True
        if not self._is_ready:
            return False
        workload = door.identity.workload
        servers = [
            ring
            for ring in rings
            if not ring.is_door and ring.identity.workload == workload and not ring.finished
        ]
        if not servers or age_ns >= BOUND_NS or self._records > MOST_HELD:
            return True
        if age_ns < READ_NS or any(ring.awaits for ring in servers):
            return False
        latest_ns = self.time.of(int(records["start_ns"].max())) + SLACK_NS
        return not any(
            span.start_ns <= latest_ns for ring in servers for span in ring.state.open.values()
        )

    def _without_known(self, ring: FollowedRing, poll: Poll) -> Poll:
        if not poll.records.size:
            return poll
        workload, key = ring.identity.workload, ring.state.key
        new = ~self._told.known(workload, key, poll.records)
        records = poll.records[new]
        self.merged += poll.records.size - records.size
        self._told.add(workload, key, records)
        ring.speaks = ring.speaks or records.size > 0
        return replace(poll, records=records, late=poll.late[new])
