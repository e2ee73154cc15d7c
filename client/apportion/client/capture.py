"""A trace of torch.profiler that somebody asked for: a few steps, begun and ended between two.

The agent's file in the ring's directory may hold the wish. A trainer looks at it at the start of a
step, every two seconds at most; the trace is left beside the ring. Nothing is imported: a program
without PyTorch has no such trace.
"""

from __future__ import annotations

import json
import os
import sys
from time import monotonic_ns
from typing import Any, Final

from apportion.client.counting import count
from apportion.client.flight_recorder import NEVER
from apportion.client.layout import AGENT_FILE, FILE_MODE, FILE_SUFFIX, TRACE_SUFFIX

INTERVAL_NS: Final = 2_000_000_000
MOST_STEPS: Final = 100
MOST_BYTES: Final = 1 << 16
"""The agent's file is a few hundred; more is somebody else's."""


class Capture:
    """Looks for a wish, and serves it. `at_step` is called before a step begins."""

    __slots__ = ("_left", "_path", "_profiler", "_seen", "_step", "due_ns")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child: what runs is its parent's."""
        self.due_ns = NEVER
        """When to look again: never yet where there were no steps with PyTorch."""
        self._profiler: Any = None
        self._step: Any = None
        self._left = 0
        self._path = ""
        self._seen: str = ""

    def at_step(self, ring_path: str, number: int) -> None:
        """Begin, go on or end, before step `number`. Nothing is raised, whatever happens."""
        try:
            if self._profiler is not None:
                self._go_on(number)
            elif "torch" in sys.modules:
                now_ns = monotonic_ns()
                if not now_ns < self.due_ns < NEVER:
                    self.due_ns = now_ns + INTERVAL_NS
                    self._look(ring_path, number)
        except Exception:  # noqa: BLE001 - whatever the profiler raises, the step goes on
            count("capture_failed")
            self._profiler = self._step = None

    def _look(self, ring_path: str, number: int) -> None:
        folder, _, name = ring_path.rpartition("/")
        asked = _wish(f"{folder}/{AGENT_FILE}")
        if asked is None or asked["ring"] != name.removesuffix(FILE_SUFFIX):
            return
        wish, steps = asked["id"], asked["steps"]
        if wish == self._seen or not (wish.isalnum() and 1 <= steps <= MOST_STEPS):
            return
        self._seen = wish
        self._left = steps
        self._path = f"{ring_path.removesuffix(FILE_SUFFIX)}.{wish}{TRACE_SUFFIX}"
        profiler = sys.modules["torch"].profiler.profile()
        profiler.start()
        self._profiler, self.due_ns = profiler, 0  # each step is marked
        self._mark(number)

    def _go_on(self, number: int) -> None:
        self._step.__exit__(None, None, None)
        self._left -= 1
        if self._left:
            self._mark(number)
            return
        profiler, self._profiler, self._step = self._profiler, None, None
        profiler.stop()
        unfinished = f"{self._path}.tmp.gz"  # the profiler packs what is called so
        try:
            profiler.export_chrome_trace(unfinished)
            os.chmod(unfinished, FILE_MODE)  # noqa: PTH101 - no pathlib in a workload
            os.rename(unfinished, self._path)  # noqa: PTH104 - as above
        except BaseException:
            if os.path.exists(unfinished):  # noqa: PTH110 - as above
                os.unlink(unfinished)  # noqa: PTH108 - as above
            raise

    def _mark(self, number: int) -> None:
        """Name the step in the trace as the ledger does."""
        torch: Any = sys.modules["torch"]
        self._step = torch.profiler.record_function(f"step {number}")
        self._step.__enter__()


def _wish(path: str) -> dict[str, Any] | None:
    """What the agent's file asks for; None where there is nothing that can be understood."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        text = os.read(fd, MOST_BYTES)
    finally:
        os.close(fd)
    try:
        asked: Any = json.loads(text)["requests"]["capture"]
        is_whole = type(asked["steps"]) is int and all(
            type(asked[key]) is str for key in ("id", "ring")
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    found: dict[str, Any] = asked
    return found if is_whole else None


capture: Final = Capture()
os.register_at_fork(after_in_child=capture.forget)
