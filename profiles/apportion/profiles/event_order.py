"""Device events in order, each once, joined with the calls that launched them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apportion.profiles.device_trace import CollectiveFacts, DeviceEvents, Flags, Ints


@dataclass(frozen=True, slots=True)
class OrderedEvents:
    """Events in order; `repeated` counts the copies that were left out."""

    events: DeviceEvents
    collectives: tuple[CollectiveFacts, ...]
    repeated: int


def ordered(
    events: DeviceEvents, correlation: Ints, collectives: Sequence[CollectiveFacts]
) -> OrderedEvents:
    """Sort by start; events that agree in everything count once."""
    keys = np.stack(
        (
            events.start_ns,
            events.device,
            events.stream,
            events.duration_ns,
            correlation,
            events.name,
        )
    )
    order = np.lexsort(keys[::-1])
    in_order = keys[:, order]
    first: Flags = np.ones(len(order), dtype=np.bool_)
    first[1:] = (in_order[:, 1:] != in_order[:, :-1]).any(axis=0)
    kept = order[first]
    place = np.full(len(order), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    moved = sorted(
        (
            replace(facts, event=int(place[facts.event]))
            for facts in collectives
            if place[facts.event] >= 0
        ),
        key=lambda facts: facts.event,
    )
    return OrderedEvents(events.where(kept), tuple(moved), len(order) - len(kept))


def launches_of(
    correlation: Ints, launch_correlation: Ints, launch_start_ns: Ints, launch_thread: Ints
) -> tuple[Flags, Ints, Ints]:
    """Whether each event's launch is known, when it began, in which thread. As `correlation`.

    Correlation ids count from 1; of several calls with one id, the first in time.
    """
    if not len(launch_correlation):
        nothing = np.zeros(len(correlation), np.int64)
        return np.zeros(len(correlation), dtype=np.bool_), nothing, nothing
    order = np.lexsort((launch_start_ns, launch_correlation))
    known = launch_correlation[order]
    index = np.minimum(np.searchsorted(known, correlation), len(known) - 1)
    launched = (known[index] == correlation) & (correlation > 0)
    row = order[index]
    return launched, launch_start_ns[row], launch_thread[row]
