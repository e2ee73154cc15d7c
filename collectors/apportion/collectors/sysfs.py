"""Single values in files of sysfs."""

from __future__ import annotations

from pathlib import Path


def is_sysfs(root: Path) -> bool:
    """Whether it is one: an image without the mount has an empty directory there, or none."""
    return any((root / name).is_dir() for name in ("class", "bus", "block", "fs"))


def no_sysfs(root: Path) -> str:
    """What to say, and what to do, where `root` is no sysfs."""
    return f"there is no sysfs at {root}: mount the host's /sys there, or set `sys_root`"


def text_in(path: Path) -> str | None:
    """A file's content; None where there is none, or the driver refuses to read it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number_in(path: Path) -> int | None:
    """The whole number in a file; None where it holds none, such as `N/A (no PMA)`."""
    text = text_in(path)
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
