"""Files in ring directories that somebody has to mend before they are read, and what to do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from apportion.agent.ingest.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apportion.agent.ingest.aside import RefusedRing
    from apportion.core.ids import RingId

_LOG: Final = logging.getLogger(__name__)
_MOST: Final = 3
"""So many are named in the sentence."""
_MENDED: Final = {
    Refusal.NO_ACCESS: "the agent may not read {}: give it and the workloads one group, in a pod "
    "by `fsGroup`",
    Refusal.FOREIGN_OWNER: "`ring_uids` does not name the owner of {}",
    Refusal.UNKNOWN_VERSION: "a client newer than this agent wrote {}: renew the agent",
    Refusal.TOO_MANY: "there are too many rings for this agent, and {} are left out",
}
"""Of other reasons nobody is to blame but the file itself: they are counted."""


class UnreadFiles:
    """Looks now and then at what is refused; the log tells of each reason when it begins."""

    def __init__(self) -> None:
        self._told: set[Refusal] = set()
        self.complaint: str | None = None
        """A sentence on those that the last look found."""

    def look(self, refused: Iterable[RefusedRing]) -> dict[RingId, str]:
        """What the writers of refused rings can mend, by ring."""
        by_reason: dict[Refusal, list[RingId]] = {}
        for each in refused:
            if each.reason in _MENDED:
                by_reason.setdefault(each.reason, []).append(each.ring)
        sentences = {reason: _sentence(reason, rings) for reason, rings in by_reason.items()}
        for reason, sentence in sentences.items():
            if reason not in self._told:
                _LOG.warning("%s; their spans are not known", sentence)
        self._told = set(sentences)
        self.complaint = "; ".join(sentences.values()) or None
        return {ring: reason.value for reason, rings in by_reason.items() for ring in rings}


def _sentence(reason: Refusal, rings: list[RingId]) -> str:
    more = len(rings) - _MOST
    shown = ", ".join(f"ring {str(ring)[:8]}" for ring in sorted(rings, key=str)[:_MOST])
    return _MENDED[reason].format(shown + (f" and {more} more" if more > 0 else ""))
