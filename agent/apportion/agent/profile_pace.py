"""How often a process is profiled over days: seldom, and seldomer where it costs or fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LONGEST_S: Final = 3600.0
DEAR: Final = 0.5
"""Of its budget of CPU: a burst that takes more is dear."""


@dataclass(frozen=True, slots=True)
class ProfilePace:
    """The time from one burst to the next: `every_s`, doubled after each bad burst."""

    every_s: float
    waiting_s: float

    @classmethod
    def of(cls, every_s: float) -> ProfilePace:
        """At its normal pace."""
        return cls(every_s, every_s)

    def after(self, *, bad: bool) -> ProfilePace:
        """The pace after a burst that failed, came late or was dear; or after a good one."""
        if not bad:
            return ProfilePace.of(self.every_s)
        longest_s = max(self.every_s, LONGEST_S)
        return ProfilePace(self.every_s, min(2 * self.waiting_s, longest_s))
