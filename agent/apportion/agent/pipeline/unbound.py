"""Rings for which no source names a device: who wrote them, and a sentence while there are any."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from apportion.core.units import NS_PER_MINUTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.agent.pipeline.intake import FollowedRing
    from apportion.core.ids import RingId

_LOG: Final = logging.getLogger(__name__)
PATIENCE_NS: Final = NS_PER_MINUTE
"""A framework needs a while until it has set its devices up, and can report them."""
_MOST: Final = 5
"""So many are named in the sentence."""
_WHY: Final = (
    "no device is known for {}: their spans are kept without money; see `How a ring gets its "
    "devices` in docs/instrument.md"
)


class UnboundRings:
    """Looks now and then at the rings that are read; each is told of once in the log."""

    def __init__(self) -> None:
        self._found: dict[RingId, str] = {}

    def look(self, followed: Mapping[RingId, FollowedRing], now_ns: int) -> dict[RingId, str]:
        """The names of writers (`workload 'x', pid 5`) of rings unbound for long; node time."""
        found = {ring: _named(each) for ring, each in followed.items() if _is_due(each, now_ns)}
        new = [name for ring, name in found.items() if ring not in self._found]
        if new:
            _LOG.warning("%s", _sentence(new))
        self._found = found
        return found

    @property
    def complaint(self) -> str | None:
        """A sentence on those that the last look found."""
        return _sentence(list(self._found.values())) if self._found else None


def _is_due(ring: FollowedRing, now_ns: int) -> bool:
    if not ring.is_unbound or ring.finished or ring.since_ns is None:
        return False
    return now_ns - ring.since_ns >= PATIENCE_NS


def _named(ring: FollowedRing) -> str:
    return f"workload {ring.identity.workload!r}, pid {ring.says.pid}"


def _sentence(names: list[str]) -> str:
    more = len(names) - _MOST
    shown = "; ".join(sorted(names)[:_MOST]) + (f"; and {more} more" if more > 0 else "")
    return _WHY.format(shown)
