"""Files that may hold stacks: told apart by what is in them, packed by gzip or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from apportion.core.errors import ProfileTraceError
from apportion.profiles.folded_text import read_folded
from apportion.profiles.speedscope import read_speedscope
from apportion.profiles.stacks import Stacks
from apportion.profiles.weight import Weight

_GZIP: Final = b"\x1f\x8b"
_LOOKED_AT: Final = 4096


def read_stacks(paths: Sequence[Path], weight: Weight) -> Stacks:
    """The stacks of all files, one behind the other; numbers without a unit are of `weight`.

    Raises:
        ProfileTraceError: a file cannot be read, is none, or weighs something else.
    """
    first, *others = (_read(path, weight) for path in paths)
    for other, path in zip(others, paths[1:], strict=True):
        try:
            first = first.together(other)
        except ProfileTraceError as error:  # noqa: PERF203 - it says which file
            raise ProfileTraceError(str(error), path=path) from error
    return first


def _read(path: Path, weight: Weight) -> Stacks:
    try:
        if not path.is_file() and path.exists():
            raise ProfileTraceError("is no plain file", path=path)
        with path.open("rb") as file:
            is_packed = file.read(len(_GZIP)) == _GZIP
        with gzip.open(path, "rb") if is_packed else path.open("rb") as stream:
            begun = stream.peek(_LOOKED_AT)[:_LOOKED_AT].lstrip()
            if begun[:1] not in {b"{", b"["}:
                return read_folded(stream, str(path), weight)
            if begun[:1] == b"[" or b'"traceEvents"' in begun:
                raise ProfileTraceError(
                    "is a trace, not stacks: give what py-spy record -f raw or -f speedscope wrote",
                    path=path,
                )
            return read_speedscope(stream.read(), str(path), weight)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ProfileTraceError(
            f"is cut off or damaged ({error}); copy or record it again", path=path
        ) from error
    except OSError as error:
        raise ProfileTraceError(f"cannot be read: {error.strerror or error}", path=path) from error
