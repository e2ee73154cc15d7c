"""What a file is, by how it begins, and its content, packed by gzip or not."""

from __future__ import annotations

import gzip
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Final

_GZIP: Final = b"\x1f\x8b"
_SQLITE: Final = b"SQLite format 3\x00"
_TAR_AT: Final = slice(257, 262)
_TAR: Final = b"ustar"
_LOOKED_AT: Final = 4096


def is_stack_file(path: Path) -> bool:
    """Whether a file's beginning is not that of a trace; a file that cannot be read counts, too."""
    try:
        with opened(path) as stream:
            text = begun(stream)
    except (OSError, EOFError, zlib.error):
        return True
    if text.startswith(b"{"):
        return b"speedscope" in text or text.startswith(b'{"shared"')
    return not (text.startswith(_SQLITE) or text[_TAR_AT] == _TAR)


def is_folded_text(path: Path) -> bool:
    """Whether a file can be folded text only."""
    try:
        with opened(path) as stream:
            text = begun(stream)
    except (OSError, EOFError, zlib.error):
        return False
    return is_stack_file(path) and not text.startswith((b"{", b"["))


def opened(path: Path) -> BufferedReader | gzip.GzipFile:
    """The file's content, unpacked if it is gzip."""
    with path.open("rb") as file:
        is_packed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if is_packed else path.open("rb")


def begun(stream: BufferedReader | gzip.GzipFile) -> bytes:
    """How the content begins, without taking it."""
    return stream.peek(_LOOKED_AT)[:_LOOKED_AT].lstrip()
