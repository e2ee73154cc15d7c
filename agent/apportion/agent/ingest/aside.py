"""Files of the ring directory that are not read: remembered, so that each is judged once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from apportion.agent.ingest.refusal import Refusal, RingRefused
from apportion.core.ids import RingId
from apportion.core.units import NS_PER_SECOND

_RETRY_NS: Final = NS_PER_SECOND
_MAY_HEAL: Final = frozenset(
    {Refusal.NO_ACCESS, Refusal.FOREIGN_OWNER, Refusal.HARD_LINKED, Refusal.TOO_MANY}
)


@dataclass(frozen=True, slots=True)
class RefusedRing:
    """A file that is not read, or no longer. `ring` is what its name says."""

    ring: RingId
    reason: Refusal
    message: str
    followed: bool
    """It was read until now: records may be missing from here on."""


@dataclass(slots=True)
class _Judged:
    inode: int
    tried_ns: int
    refused: RefusedRing | None


class Aside:
    """Remembers refused and finished files by name and inode while they stay in the directory."""

    def __init__(self) -> None:
        self._judged: dict[str, _Judged] = {}
        self.total: Counter[Refusal] = Counter()
        """Refusals ever, by reason."""

    @property
    def refused(self) -> tuple[RefusedRing, ...]:
        """Every file that is refused now."""
        return tuple(file.refused for file in self._judged.values() if file.refused is not None)

    def keep(self, names: AbstractSet[str]) -> None:
        """Forget all but `names`."""
        for name in self._judged.keys() - names:
            del self._judged[name]

    def names(self) -> AbstractSet[str]:
        """What is remembered."""
        return self._judged.keys()

    def is_judged(self, name: str, inode: int, now_ns: int) -> bool:
        """Whether this very file needs no other look; what may have healed does, in a while."""
        file = self._judged.get(name)
        if file is None or file.inode != inode:
            return False
        refused = file.refused
        heals = refused is not None and refused.reason in _MAY_HEAL and not refused.followed
        return not (heals and now_ns - file.tried_ns >= _RETRY_NS)

    def refuse(
        self, name: str, ring: RingId, inode: int, error: Exception, now_ns: int, *, followed: bool
    ) -> RefusedRing | None:
        """Set a file aside; None where that was known already."""
        reason = error.reason if isinstance(error, RingRefused) else Refusal.UNREADABLE
        refused = RefusedRing(ring, reason, f"{name}: {error}", followed)
        before = self._judged.get(name)
        self._judged[name] = _Judged(inode, now_ns, refused)
        if before is not None and (before.inode, before.refused) == (inode, refused):
            return None
        self.total[reason] += 1
        return refused

    def finish(self, name: str, inode: int, now_ns: int) -> None:
        """A ring was read to its end but its file may stay: it is not read again."""
        self._judged[name] = _Judged(inode, now_ns, None)

    def forget(self, name: str) -> None:
        """The file is read after all."""
        self._judged.pop(name, None)
