"""Which settled time was settled without something that is known now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.pipeline.step_gaps import differing
from apportion.core.units import NS_PER_HOUR

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.device import MeteredDevice
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.settlement.work import Roots

HISTORY_NS: Final = 6 * NS_PER_HOUR
"""How far back cost is moved; what is learnt later than that stays where it is."""


class Surprise(NamedTuple):
    """What one device's settled past [start_ns, end_ns) missed."""

    device: MeteredDevice
    start_ns: int
    end_ns: int


def surprises(
    devices: Sequence[MeteredDevice],
    rings: Sequence[RingState],
    roots: Mapping[int, Roots],
    groups: Mapping[int, Sequence[int]],
) -> list[Surprise]:
    """Per device the hull of all that its settled time was not settled with.

    `roots` are those of each ring, by its key.
    """
    latest_ns = max((device.settled_ns for device in devices), default=0)
    changed = [(ring, _changes(ring, roots[ring.key], latest_ns)) for ring in rings]
    changed = [(ring, spans) for ring, spans in changed if spans.size]
    found: list[Surprise] = []
    for device in devices:
        settled_ns = device.settled_ns
        hull: tuple[int, int] | None = None
        for ring, spans in changed:
            if not _used(ring, device.key, groups):
                continue
            past = spans[spans[:, 0] < settled_ns]
            if past.size:
                start_ns, end_ns = int(past[:, 0].min()), int(past[:, 1].max())
                if hull is not None:
                    start_ns, end_ns = min(start_ns, hull[0]), max(end_ns, hull[1])
                hull = start_ns, end_ns
        if hull is None:
            continue
        start_ns = max(hull[0], device.since_ns, settled_ns - HISTORY_NS)
        end_ns = min(hull[1], settled_ns)
        if start_ns < end_ns:
            found.append(Surprise(device, start_ns, end_ns))
    return found


def as_applied(roots: Roots) -> Roots:
    """Those that were part of what is settled, with what they claimed then."""
    rows = roots[roots["applied_start_ns"] < roots["applied_end_ns"]].copy()
    rows["start_ns"], rows["end_ns"] = rows["applied_start_ns"], rows["applied_end_ns"]
    return rows


def _used(ring: RingState, device: int, groups: Mapping[int, Collection[int]]) -> bool:
    return any(device in groups[spell.group] for spell in ring.spells())


def _changes(ring: RingState, roots: Roots, before_ns: int) -> NDArray[np.int64]:
    """(start, end) of the times that the ring's claims differ in from what was applied.

    Only those that begin before `before_ns` need to be there.
    """
    claims = np.stack([roots[name] for name in ("start_ns", "end_ns")], axis=1)
    applied = np.stack([roots[name] for name in ("applied_start_ns", "applied_end_ns")], axis=1)
    was, is_now = applied[:, 0] < applied[:, 1], claims[:, 0] < claims[:, 1]
    spans = [claims[is_now & ~was], applied[was & ~is_now]]
    both = was & is_now
    for edge in (0, 1):
        moved = both & (claims[:, edge] != applied[:, edge])
        edges = np.stack([claims[moved, edge], applied[moved, edge]], axis=1)
        spans.append(np.sort(edges, axis=1))
    if ring.unapplied:
        known = (ring.process_start_ns, ring.startup_end_ns, ring.attached_ns)
        start_ns = min(time_ns for time_ns in known if time_ns is not None)
        spans.append(np.array([[start_ns, _EVER_NS]], np.int64))
    if not ring.startup_applied and ring.startup is not None:
        spans.append(np.array([ring.startup], np.int64))
    if ring.steps_end_ns is not None or roots["step"].any():
        before = ring.gaps(as_applied(roots), ring.steps_end_ns)
        after = ring.gaps(roots, ring.steps_end_ns)
        gaps = differing(before[before[:, 0] < before_ns], after[after[:, 0] < before_ns])
        if gaps:
            spans.append(np.array(gaps, np.int64))
    return np.concatenate(spans)


_EVER_NS: Final = 1 << 62
