"""Folded text, one stack a line: `root;caller;leaf 42`, as `py-spy record -f raw` prints it.

The weight is behind the last space; frames may hold spaces. The form has no way to write a
semicolon or a line's end inside a frame: the writer puts `:` and a space there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from apportion.core.errors import ProfileTraceError
from apportion.profiles.weight import LARGEST

if TYPE_CHECKING:
    from apportion.profiles.stacks import Stacks

_UNWRITABLE: Final = str.maketrans({";": ":", "\n": " ", "\r": " "})


def folded_stacks(lines: Iterable[bytes], source: str) -> Iterator[tuple[str, int]]:
    """The stacks of a file and what they weigh: frames joined by semicolons, the root first.

    Raises:
        ProfileTraceError: a line is none, or there is no line at all.
    """
    found = False
    for number, line in enumerate(lines, start=1):
        stack, _, count = line.decode("utf-8", "replace").rpartition(" ")
        try:
            value = int(count)
        except ValueError:
            if not line.strip():
                continue
            raise _refused(source, number, count) from None
        if not stack or not 0 <= value <= LARGEST:
            raise _refused(source, number, count)
        found = True
        yield stack, value
    if not found:
        raise ProfileTraceError(
            "has no stack in it: nothing ran while it was sampled, or nothing was written",
            path=source,
        )


def folded_lines(stacks: Stacks, row: int) -> Iterator[str]:
    """Every stack with its weight of `row`; those that weigh nothing are left out."""
    names = [name.translate(_UNWRITABLE) for name in stacks.names]
    offsets = stacks.offsets.tolist()
    frames: list[int] = stacks.frames.tolist()
    for index, value in enumerate(stacks.values[row].tolist()):
        if value:
            stack = ";".join([names[code] for code in frames[offsets[index] : offsets[index + 1]]])
            yield f"{stack} {value}\n"


def _refused(source: str, number: int, count: str) -> ProfileTraceError:
    shown = count.strip()[:40]
    neither = (
        ", and the file begins as no trace and no speedscope file either" if number == 1 else ""
    )
    return ProfileTraceError(
        f"is no line of folded text (`root;caller;leaf 42`){neither}: {shown!r} is no whole number "
        "of 0 to 2^63 behind a stack; scale fractions up",
        path=source,
        line=number,
    )
