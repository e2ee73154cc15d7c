"""PyTorch's Flight Recorder: what NCCL (or gloo) has moved, put unread into a file beside the ring.

PyTorch keeps the last operations of each process in a buffer. A training process that takes part
in a group dumps it now and then: without stack traces, without parsing it, in PyTorch's own words.
The agent reads the file. A dump that costs more than a thousandth of the time since the last one
makes the next one later, and in the end there is none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final

from apportion.client.counting import count
from apportion.client.layout import FILE_MODE, FILE_SUFFIX

DUMP_SUFFIX: Final = ".nccl"
INTERVAL_NS: Final = 30_000_000_000
LONGEST_NS: Final = 20 * INTERVAL_NS
"""Where even so rare a dump costs too much, there is no further one."""
MOST_PART: Final = 1_000
"""A dump may cost one part in so many of the time since the last one."""
NEVER: Final = 1 << 62
_HEAD: Final = b'{"apportion":{"pid":%d,"cost_ns":%d}}\n'


def dumper() -> Callable[[], bytes] | None:
    """PyTorch's own function, while this process is in a group of it; None otherwise.

    Nothing is imported: a program that has not loaded it has no collectives.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    native: Any = sys.modules.get("torch._C._distributed_c10d")
    if distributed is None or native is None:
        return None
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    for name in ("_dump_nccl_trace_json", "_dump_fr_trace_json"):
        in_json: Any = getattr(native, name, None)
        if in_json is not None:
            return lambda: in_json(includeCollectives=True, onlyActive=False)
    pickled: Any = getattr(native, "_dump_nccl_trace", None)  # before 2.5
    if pickled is None:
        return None
    return lambda: pickled(includeCollectives=True, includeStackTraces=False, onlyActive=False)


class FlightRecorder:
    """Decides when to dump, and dumps. `look` is called at the start of spans."""

    __slots__ = ("_dump", "_interval_ns", "_last_ns", "due_ns")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child: the groups were its parent's."""
        self.due_ns = 0
        """Before this time there is nothing to do, and spans may take the short way."""
        self._dump: Callable[[], bytes] | None = None
        self._interval_ns = INTERVAL_NS
        self._last_ns = 0

    def look(self, ring_path: str, now_ns: int) -> None:
        """Dump if it is time. Nothing is raised, whatever the framework does."""
        if now_ns < self.due_ns:
            return
        try:
            if self._dump is None:
                self._begin(now_ns)
            else:
                self._take(ring_path, now_ns)
        except Exception:  # noqa: BLE001 - whatever the framework raises, the span goes on
            count("dump_failed")
            self._stop()

    def _begin(self, now_ns: int) -> None:
        self._dump = dumper()
        self._last_ns = now_ns
        # Whether the program joins a group is asked now and then; that costs a dictionary look-up.
        self.due_ns = now_ns + (INTERVAL_NS if self._dump is not None else INTERVAL_NS // 30)

    def _take(self, ring_path: str, now_ns: int) -> None:
        if self._dump is None or not sys.modules["torch.distributed"].is_initialized():
            self._dump, self.due_ns = None, now_ns + INTERVAL_NS
            return
        data = self._dump()
        _write(ring_path.removesuffix(FILE_SUFFIX) + DUMP_SUFFIX, data, monotonic_ns() - now_ns)
        cost_ns = monotonic_ns() - now_ns
        if cost_ns * MOST_PART > now_ns - self._last_ns:
            self._interval_ns *= 2
            if self._interval_ns > LONGEST_NS:
                count("dump_too_dear")
                self._stop()
                return
        self._last_ns, self.due_ns = now_ns, now_ns + self._interval_ns

    def _stop(self) -> None:
        self._dump, self.due_ns = None, NEVER


def _write(path: str, data: bytes, cost_ns: int) -> None:
    """Whole or not at all: the agent never reads half a dump."""
    unfinished = f"{path}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(unfinished, flags, FILE_MODE)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(_HEAD % (os.getpid(), cost_ns))
            file.write(data)
        os.rename(unfinished, path)  # noqa: PTH104 - no pathlib in a workload
    except OSError:
        os.unlink(unfinished)  # noqa: PTH108 - as above
        raise


flight_recorder: Final = FlightRecorder()
os.register_at_fork(after_in_child=flight_recorder.forget)
