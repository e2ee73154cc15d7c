"""Node time: monotonic plus an anchor fixed once per boot. It never steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from apportion.core.clock import Clock
    from apportion.cost.ledger.batch import LedgerState

WALL_STEP_NS: Final = 100_000_000
"""Wall clocks are slewed all the time; an offset is dated again when it moved by this much."""

AFTER_NS: Final = 10 * NS_PER_SECOND
"""On a new boot with a wall clock that went back, node time begins so long after what is known."""


def boot_id(proc_root: Path = Path("/proc")) -> str:
    """The kernel's random id of this boot.

    Raises:
        ConfigError: there is no procfs at `proc_root`.
    """
    path = proc_root / "sys/kernel/random/boot_id"
    try:
        return path.read_text().strip().replace("-", "")
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): is `proc_root` a procfs?"
        raise ConfigError(message) from error


@dataclass(slots=True)
class NodeTime:
    """The ledger's axis on one boot, and the wall clock's dated offset from it."""

    boot: str
    anchor_ns: int
    offset_ns: int = 0

    @classmethod
    def of_ledger(cls, boot: str, clock: Clock, state: LedgerState) -> NodeTime:
        """On a known boot as it was; on a new one by the wall clock, but never back in time."""
        tables = state.tables
        offsets = tables.get("wall_offset", [])
        offset_ns = max(offsets)[1] if offsets else 0
        for known, anchor_ns, _ in tables.get("boot", []):
            if known == boot:
                return cls(boot, anchor_ns, offset_ns)
        used = [row[1] for table in ("watermark", "reading") for row in tables.get(table, [])]
        start_ns = clock.realtime_ns()
        if used:
            start_ns = max(start_ns, max(used) + AFTER_NS)
        return cls(boot, start_ns - clock.monotonic_ns(), offset_ns)

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
