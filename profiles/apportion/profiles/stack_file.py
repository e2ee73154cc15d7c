"""Files that may hold stacks: told apart by what is in them, packed by gzip or not."""

from __future__ import annotations

import gzip
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Final

from apportion.core.errors import ProfileTraceError
from apportion.profiles.folded_text import read_folded
from apportion.profiles.speedscope import read_speedscope
from apportion.profiles.stacks import Stacks
from apportion.profiles.weight import Weight

_GZIP: Final = b"\x1f\x8b"
_SQLITE: Final = b"SQLite format 3\x00"
_TAR_AT: Final = slice(257, 262)
_TAR: Final = b"ustar"
_LOOKED_AT: Final = 4096


def is_stack_file(path: Path) -> bool:
    """Whether a file's beginning is not that of a trace; a file that cannot be read counts, too."""
    try:
        with _opened(path) as stream:
            begun = _begun(stream)
    except (OSError, EOFError, zlib.error):
        return True
    if begun.startswith(b"{"):
        return b"speedscope" in begun or begun.startswith(b'{"shared"')
    return not (begun.startswith(_SQLITE) or begun[_TAR_AT] == _TAR)


def read_stacks(path: Path, weight: Weight) -> Stacks:
    """The stacks of a file; numbers without a unit are of `weight`.

    Raises:
        ProfileTraceError: it cannot be read, or is none.
    """
    try:
        if not path.is_file() and path.exists():
            raise ProfileTraceError("is no plain file", path=path)
        with _opened(path) as stream:
            begun = _begun(stream)
            if begun.startswith(b"["):
                raise ProfileTraceError(
                    "is a list of JSON (py-spy's chrometrace or dump), which has no weights: "
                    "record with py-spy record -f raw or -f speedscope",
                    path=path,
                )
            if begun.startswith(b"{"):
                return read_speedscope(stream.read(), str(path), weight)
            return read_folded(stream, str(path), weight)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ProfileTraceError(
            f"is cut off or damaged ({error}); copy or record it again", path=path
        ) from error
    except OSError as error:
        raise ProfileTraceError(f"cannot be read: {error.strerror or error}", path=path) from error


def _opened(path: Path) -> BufferedReader | gzip.GzipFile:
    """The file's content, unpacked if it is gzip."""
    with path.open("rb") as file:
        is_packed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if is_packed else path.open("rb")


def _begun(stream: BufferedReader | gzip.GzipFile) -> bytes:
    """How the content begins, without taking it."""
    return stream.peek(_LOOKED_AT)[:_LOOKED_AT].lstrip()
