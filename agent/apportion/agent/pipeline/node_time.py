"""Node time: monotonic plus an anchor fixed once per boot. It never steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from apportion.core.clock import Clock

WALL_STEP_NS: Final = 100_000_000
"""Wall clocks are slewed all the time; an offset is dated again when it moved by this much."""


def boot_id(proc_root: Path = Path("/proc")) -> str:
    """The kernel's random id of this boot."""
    return (proc_root / "sys/kernel/random/boot_id").read_text().strip().replace("-", "")


@dataclass(slots=True)
class NodeTime:
    """The ledger's axis on one boot, and the wall clock's dated offset from it."""

    boot: str
    anchor_ns: int
    offset_ns: int = 0

    @classmethod
    def start(
        cls, boot: str, clock: Clock, *, known_anchor_ns: int | None, after_ns: int
    ) -> NodeTime:
        """On a known boot its anchor; on a new one the wall clock's, never before `after_ns`."""
        if known_anchor_ns is not None:
            return cls(boot, known_anchor_ns)
        monotonic_ns = clock.monotonic_ns()
        return cls(boot, max(clock.realtime_ns() - monotonic_ns, after_ns - monotonic_ns))

    def of(self, monotonic_ns: int) -> int:
        """Node time of an instant of this boot's monotonic clock."""
        return monotonic_ns + self.anchor_ns

    def now(self, clock: Clock) -> int:
        """Node time now."""
        return self.of(clock.monotonic_ns())

    def observe(self, clock: Clock) -> tuple[int, int] | None:
        """(since, offset) when the wall clock has moved against node time, else None."""
        now_ns = self.now(clock)
        offset_ns = clock.realtime_ns() - now_ns
        if abs(offset_ns - self.offset_ns) < WALL_STEP_NS:
            return None
        self.offset_ns = offset_ns
        return now_ns, offset_ns

    def unix(self, node_ns: int) -> int:
        """Wall time of an instant, by the latest offset."""
        return node_ns + self.offset_ns
