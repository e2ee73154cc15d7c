"""Text from a file that anybody may have written: readable, bounded, safe to print."""

from __future__ import annotations

from typing import Final

REPLACEMENT: Final = "\ufffd"


def sanitised(text: str) -> str:
    """`text` with everything unprintable replaced.

    Control characters, lone surrogates and the marks that turn the direction of writing would
    reach terminals, log files and label values.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else REPLACEMENT for char in text)


def decoded(raw: bytes) -> str:
    """UTF-8 bytes as safe text; what is not UTF-8 is replaced."""
    return sanitised(raw.decode("utf-8", errors="replace"))
