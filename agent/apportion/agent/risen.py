"""By how much counters rise between two looks, although series of them end meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

K = TypeVar("K", bound="Hashable")


class Risen(Generic[K]):
    """Remembers what the last look saw. A counter that was not there before rose from 0."""

    def __init__(self) -> None:
        self._before: Mapping[K, int] = {}

    def since_last(self, now: Mapping[K, int]) -> dict[K, int]:
        """The rise of each counter that is there now; one that is lower began anew."""
        before, self._before = self._before, dict(now)
        risen: dict[K, int] = {}
        for key, count in now.items():
            known = before.get(key, 0)
            risen[key] = count - known if count >= known else count
        return risen
