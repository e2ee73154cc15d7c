"""How a span becomes bytes: the layout's structs, cut so that a common record costs little.

What is always zero in a form is padding, which struct zeroes; a test holds each form against the
layout. `l` and `L` stand for `q` and `Q` where they are as long: CPython converts them faster.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, Final

from apportion.client import layout

if TYPE_CHECKING:
    from apportion.client.span import Span

WORD_CODE: Final = "L" if struct.calcsize("@L") == 8 else "Q"
"""The memoryview format whose items are the ring's 8-byte words."""


def _form(text: str) -> struct.Struct:
    return struct.Struct(text.replace("Q", WORD_CODE).replace("q", WORD_CODE.lower()))


# Each begins behind the guard (`start_ns` of an open slot, `sequence` of a record).
OPEN: Final = _form("@QQQ 16x Qq")
"""Number, parent, packed, words, step."""

OPEN_STEP: Final = _form("@Q 8x Q 24x q")
"""Of a root step: number, packed, step."""

OPEN_REQUEST: Final = _form("@Q 8x Q 16x Qq")
"""Of a root request: number, packed, words, step."""

PLAIN: Final = _form("@Q 8x Q 8x q 16x qq 176s")
"""A root span that says no more: number, packed, start, end, step, tail of its thread."""

PART: Final = _form("@QQQ 8x q 16x qq 176s")
"""The same with a parent: number, parent, packed, start, end, step, tail of its thread."""

REQUEST: Final = _form("@Q 8x Q 8x qqqq qqqq 32s 8x Q 32x Q H62s")
"""A root request: number, packed, start, scheduled, first token, end, step, input, cached and
output tokens, the other counters (absent), tenant and model, thread, id head, id."""

RECORD: Final = _form("@QQQ qqqqqq qqqqqqq 8x Q II 24s Q H62s")
"""Everything, in the layout's order; tenant and model are one word, trace id and parent one field,
and so are the two bytes before the request id (little-endian)."""

ITERATION: Final = _form("@Q 8x Q 8x q 16x qq q8sq 8s qq 8s 20x I 24x Q 64x")
"""Of an engine: number, packed, start, end, index, prefill tokens, absent, decode tokens, absent,
prefill requests, decode requests, absent, engine, thread."""

SCHEDULED: Final = _form("@Q 8x Q 8x q 16x qqqq 16s q 16s 20x I 24x Q H62s")
"""Of a request in an engine: number, packed, start, end, first index, tokens, context, absent,
iterations, absent, engine, thread, id head, id."""

ABSENT_BYTES: Final = struct.pack("@q", layout.ABSENT)
OTHER_COUNTERS: Final = ABSENT_BYTES * 4
"""The counters behind the three of a request, none reported."""

_TAIL: Final = struct.Struct("@56s 48x Q 64x")


class ThreadFacts:
    """What each record says of the thread that started its span."""

    __slots__ = ("innermost", "native_id", "tail")  # a named tuple's fields are slower to read

    def __init__(self) -> None:
        self.innermost: Span | None = None
        """The outermost span that it entered last where no event loop ran; perhaps ended."""
        self.native_id = threading.get_native_id()
        """The kernel's id."""
        self.tail = _TAIL.pack(ABSENT_BYTES * len(layout.COUNTERS), self.native_id)
        """A record from its counters on: none, no labels, no trace, this thread, no request id."""


class _Threads(threading.local):
    """The facts of the calling thread; found out once per thread, since it is a system call."""

    def __init__(self) -> None:
        self.facts = ThreadFacts()


threads: Final = _Threads()


def _renew() -> None:
    # A forked child's only thread goes on with its parent's thread-local values.
    threads.facts = ThreadFacts()


os.register_at_fork(after_in_child=_renew)
