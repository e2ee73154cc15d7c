"""The process in which NVML runs: `python -m apportion.collectors.nvml_child`.

It sends one sweep of readings each period, on absolute deadlines, to its standard output and
ends when its parent does. A hung driver call or a crash inside the library costs this process,
never the agent. `nvml_process` is the other end.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from apportion.collectors.collector import DeviceFailure
from apportion.collectors.nvml import NvmlReader
from apportion.collectors.nvml_error import NvmlCode, NvmlError
from apportion.collectors.nvml_frames import FrameError, encode
from apportion.collectors.nvml_library import NvmlLibrary, PynvmlLibrary
from apportion.collectors.nvml_messages import (
    Begin,
    DeviceAnswer,
    End,
    Hello,
    Message,
    NvmlState,
    Report,
)
from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import CollectorError

_STATE_BY_CODE: Final[dict[int, NvmlState]] = {
    NvmlCode.LIBRARY_NOT_FOUND: NvmlState.NO_LIBRARY,
    NvmlCode.DRIVER_NOT_LOADED: NvmlState.NO_DRIVER,
    NvmlCode.LIB_RM_VERSION_MISMATCH: NvmlState.MISMATCH,
}
_PR_SET_PDEATHSIG: Final = 1
_NS_PER_MILLISECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Outside:
    """The child's ends: bytes out, and a wait until a deadline that says if the parent lives."""

    send: Callable[[bytes], None]
    parent_lives: Callable[[int], bool]


def sample(
    library: NvmlLibrary, clock: Clock, outside: Outside, *, period_ns: int, skip: frozenset[int]
) -> None:
    """Open NVML and send sweeps until the parent goes away or NVML gives up."""
    reader = NvmlReader(library, clock, skip=skip)
    try:
        reader.open()
        _send(outside, Hello(reader.driver_version, reader.indexes))
        due_ns = int(clock.monotonic_ns())
        number = 0
        while outside.parent_lives(due_ns):
            number += 1
            late_ns = max(0, clock.monotonic_ns() - due_ns)
            _send(outside, Begin(number))
            for answer in reader.sweep():
                _send(outside, answer)
            _send(outside, End(number, late_ns))
            # Deadlines stay on one grid; those that were missed are left out, not caught up.
            behind_ns = max(0, clock.monotonic_ns() - due_ns)
            due_ns += (behind_ns // period_ns + 1) * period_ns
    except CollectorError as error:
        _send(outside, Report(_state_of(error), str(error)))
    finally:
        reader.close()


def _send(outside: Outside, message: Message) -> None:
    """One message; a device whose very identity is garbage becomes a failure of its index."""
    try:
        frame = encode(message)
    except FrameError as error:
        if not isinstance(message, DeviceAnswer):
            raise
        failure = DeviceFailure(None, message.index, f"its identity is garbage: {error}")
        frame = encode(DeviceAnswer(message.index, failure=failure))
    outside.send(frame)


def _state_of(error: CollectorError) -> NvmlState:
    """The state that the parent shows for `error`."""
    if not isinstance(error, NvmlError):
        return NvmlState.FAILED
    return _STATE_BY_CODE.get(error.code, NvmlState.FAILED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with the real NVML. Exit status 0, whatever NVML says: a report tells the parent."""
    parser = argparse.ArgumentParser(prog="nvml_child", description=__doc__)
    parser.add_argument("--period-ns", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="the parent's pid")
    parser.add_argument("--skip", type=int, action="append", default=[], help="a device's index")
    options = parser.parse_args(arguments)
    _die_with_parent(options.parent)
    # What the driver's library prints must not land between frames.
    frames = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    clock = SystemClock()
    outside = Outside(
        send=lambda frame: _write(frames, frame),
        parent_lives=lambda until_ns: _open_until(sys.stdin.fileno(), clock, until_ns),
    )
    try:
        sample(
            PynvmlLibrary(),
            clock,
            outside,
            period_ns=max(1, options.period_ns),
            skip=frozenset(options.skip),
        )
    except BrokenPipeError:
        # The parent went away between two frames.
        return 0
    return 0


def _write(descriptor: int, frame: bytes) -> None:
    """All of `frame`; it waits where the parent does not read, and resumes when it does."""
    rest = memoryview(frame)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _open_until(descriptor: int, clock: Clock, until_ns: int) -> bool:
    """Wait until `until_ns`; False as soon as the other end of `descriptor` is closed."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while True:
        left_ns = until_ns - clock.monotonic_ns()
        # Rounded up: poll counts whole milliseconds and must not spin through the last one.
        milliseconds = max(0, -(-left_ns // _NS_PER_MILLISECOND))
        if poller.poll(milliseconds) and not os.read(descriptor, 4096):
            return False
        if left_ns <= 0:
            return True


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process with the thread that started it.

    End of file on standard input says the same, except while a driver call blocks this process
    or where another child of the parent holds the pipe's other end.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before the kernel knew.
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
