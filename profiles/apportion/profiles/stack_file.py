"""Files that may hold stacks: told apart by what is in them, packed by gzip or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from apportion.core.errors import ProfileTraceError
from apportion.profiles.folded_text import folded_stacks
from apportion.profiles.speedscope import read_speedscope
from apportion.profiles.stack_stream import begun, opened
from apportion.profiles.stacks import StackColumns, Stacks
from apportion.profiles.weight import Weight

_PICTURES: Final = (b"<?xml", b"<svg", b"<!doctype", b"<html")
_LONGEST_BEGIN: Final = max(map(len, _PICTURES))


def read_stacks(path: Path, weight: Weight) -> Stacks:
    """The stacks of a file; numbers without a unit are of `weight`.

    Raises:
        ProfileTraceError: it cannot be read, or is none.
    """
    try:
        if not path.is_file() and path.exists():
            raise ProfileTraceError("is no plain file", path=path)
        with opened(path) as stream:
            text = begun(stream)
            if text.startswith(b"["):
                raise ProfileTraceError(
                    "is a list of JSON (py-spy's chrometrace or dump), which has no weights: "
                    "record with py-spy record -f raw or -f speedscope",
                    path=path,
                )
            if text[:_LONGEST_BEGIN].lower().startswith(_PICTURES):
                raise ProfileTraceError(
                    "is a picture or a page, which has no stacks: give what it was drawn from, or "
                    "record with py-spy record -f raw or -f speedscope",
                    path=path,
                )
            if text.startswith(b"{"):
                return read_speedscope(stream.read(), str(path), weight)
            return _folded(stream, str(path), weight)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ProfileTraceError(
            f"is cut off or damaged ({error}); copy or record it again", path=path
        ) from error
    except OSError as error:
        raise ProfileTraceError(f"cannot be read: {error.strerror or error}", path=path) from error


def _folded(lines: Iterable[bytes], source: str, weight: Weight) -> Stacks:
    columns = StackColumns()
    for stack, value in folded_stacks(lines, source):
        columns.add(stack.split(";"), (value,))
    return columns.stacks((weight,))
