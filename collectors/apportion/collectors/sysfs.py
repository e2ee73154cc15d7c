"""Single values in files of sysfs."""

from __future__ import annotations

from pathlib import Path


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
