"""Which boot of the host this is: a ring of another one has times that mean nothing now."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from uuid import UUID

from apportion.agent.ingest.header import UNKNOWN_BOOT

BOOT_ID_PATH: Final = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id(path: Path = BOOT_ID_PATH) -> bytes:
    """The kernel's boot id, 16 bytes; zeros where a sandbox hides it."""
    try:
        return UUID(path.read_text(encoding="ascii").strip()).bytes
    except (OSError, ValueError):
        return UNKNOWN_BOOT
