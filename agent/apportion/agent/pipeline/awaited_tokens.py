"""Polls of servers that wait for a door's word of their requests' tokens.

A client or a middleware may not know how many tokens a request had (an answer without `usage`),
and a door of the same workload does, some seconds later. What the server's ring says goes first;
what it does not say is taken from the door's record of the same request, before it is absorbed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.pipeline.told_requests import SLACK_NS, names_of
from apportion.client import layout
from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from apportion.agent.ingest import Poll
    from apportion.agent.ingest.record import Flags, Records
    from apportion.agent.pipeline.door_polls import DoorPolls
    from apportion.agent.pipeline.intake import FollowedRing

BOUND_NS: Final = 10 * NS_PER_SECOND
"""So long a poll waits: OpenTelemetry's exporters send what has ended every five seconds."""
_TAKEN: Final = ("input_tokens", "cached_input_tokens", "output_tokens", "preemptions")


class _Held(NamedTuple):
    poll: Poll
    begun_ns: int


@dataclass(slots=True)
class AwaitedTokens:
    """The polls of servers' rings, each in its order, until they are as complete as they get."""

    _held: dict[int, deque[_Held]] = field(default_factory=dict[int, "deque[_Held]"])

    def hold(self, ring: FollowedRing, poll: Poll, begun_ns: int) -> None:
        """A server's ring was polled at `begun_ns` (host monotonic)."""
        held = self._held.setdefault(ring.state.key, deque())
        held.append(_Held(_kept(poll) if held else poll, begun_ns))

    def due(
        self, rings: Collection[FollowedRing], doors: DoorPolls, now_ns: int
    ) -> Iterator[tuple[FollowedRing, Poll, int]]:
        """What lacks nothing, or has waited for long enough, and when it was polled."""
        for gone in self._held.keys() - {ring.state.key for ring in rings}:
            del self._held[gone]
        telling = {ring.identity.workload for ring in rings if ring.is_door and not ring.finished}
        for ring in rings:
            held = self._held.get(ring.state.key)
            while held:
                poll, begun_ns = held[0]
                workload = ring.identity.workload
                if workload in telling and (lacking := _lacking(poll.records)).any():
                    told = doors.waiting(workload)
                    records, waits = _completed(workload, poll.records, lacking, told)
                    poll = replace(poll, records=records)
                    if waits.any() and now_ns - begun_ns < BOUND_NS:
                        held[0] = _Held(_kept(poll), begun_ns)
                        break
                held.popleft()
                yield ring, poll, begun_ns
            ring.awaits = bool(held)
            if held is not None and not held:
                del self._held[ring.state.key]


def _kept(poll: Poll) -> Poll:
    """The reader uses its buffer again at the next poll."""
    return replace(poll, records=poll.records.copy(), open_spans=poll.open_spans.copy())


def _lacking(records: Records) -> Flags:
    """Which are requests of whose tokens something is not known."""
    kinds = records["packed"].astype(np.int64) & 0xFF
    unknown = (records["input_tokens"] < 0) | (records["output_tokens"] < 0)
    lacking: Flags = unknown & (kinds == layout.KINDS["request"]) & (records["parent"] == 0)
    return lacking


def _completed(
    workload: str | None, records: Records, lacking: Flags, told: Records
) -> tuple[Records, Flags]:
    """`records` with what doors have `told`; and of which of `lacking` none has, that may yet."""
    by_name: dict[int, list[int]] = {}
    for index, names in names_of(workload, told):
        for name in names:
            by_name.setdefault(name, []).append(index)
    records, waits = records.copy(), np.zeros_like(lacking)
    chosen = np.flatnonzero(lacking)
    for index, names in names_of(workload, records[chosen]):
        place = int(chosen[index])
        found = {
            other
            for name in names
            for other in by_name.get(name, ())
            if told["start_ns"][other] - SLACK_NS <= records["end_ns"][place]
            and records["start_ns"][place] <= told["end_ns"][other] + SLACK_NS
        }
        # Of several records (samples, prompts) nobody says which prompts are the same.
        if len(found) == 1:
            _take(records[place], told[found.pop()])
        else:
            waits[place] = not found and bool(names)
    return records, waits


def _take(record: np.void, told: np.void) -> None:
    for name in _TAKEN:
        if record[name] < 0:
            record[name] = told[name]
    if not record["first_token_ns"] and told["first_token_ns"]:
        begun_ns = max(record["start_ns"], record["scheduled_ns"])
        record["first_token_ns"] = min(max(told["first_token_ns"], begun_ns), record["end_ns"])
