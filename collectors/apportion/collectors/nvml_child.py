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
from apportion.collectors.nvml import Looked, NvmlReader, NvmlStalled
from apportion.collectors.nvml_error import NvmlCode, NvmlError
from apportion.collectors.nvml_events import NvmlEvents
from apportion.collectors.nvml_frames import FrameError, encode
from apportion.collectors.nvml_lane import InlineLane, Lane, ThreadLane
from apportion.collectors.nvml_library import NvmlLibrary
from apportion.collectors.nvml_messages import (
    Begin,
    DeviceAnswer,
    End,
    Hello,
    Message,
    NvmlState,
    Report,
)
from apportion.collectors.nvml_pynvml import PynvmlLibrary
from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import CollectorError

_STATE_BY_CODE: Final[dict[int, NvmlState]] = {
    NvmlCode.LIBRARY_NOT_FOUND: NvmlState.NO_LIBRARY,
    NvmlCode.DRIVER_NOT_LOADED: NvmlState.NO_DRIVER,
    NvmlCode.LIB_RM_VERSION_MISMATCH: NvmlState.MISMATCH,
}
FRESH: Final = b"f"
"""What the parent says to have everything read at the next sweep, processes above all."""
LEAST_PATIENCE_NS: Final = 250_000_000
"""A GPU that answers within this is not slow, however short the period."""
_EVENTS_GRACE_NS: Final = 1_000_000_000
_PR_SET_PDEATHSIG: Final = 1
_NS_PER_MILLISECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Outside:
    """The child's ends: bytes out, and a wait until a deadline for what the parent says.

    `wait` gives the bytes that the parent sent meanwhile; None once it has gone away.
    """

    send: Callable[[bytes], None]
    wait: Callable[[int], bytes | None]


@dataclass(frozen=True, slots=True)
class Sampling:
    """What to read and how: `skip` are GPUs that are never touched if NVML lists `count` of them.

    Where it lists another number, indexes mean other GPUs than those that were to be left out.
    """

    period_ns: int
    deadline_ns: int
    skip: frozenset[int] = frozenset()
    count: int | None = None


def sample(
    library: NvmlLibrary,
    clock: Clock,
    outside: Outside,
    sampling: Sampling,
    *,
    lanes: Callable[[], Lane[Looked]] = InlineLane,
) -> bool:
    """Open NVML and send sweeps until the parent goes away or NVML gives up.

    Returns:
        Whether nothing is left that hangs in NVML.
    """
    period_ns = sampling.period_ns
    reader = NvmlReader(
        library,
        clock,
        skip=sampling.skip,
        count=sampling.count,
        period_ns=period_ns,
        patience_ns=max(period_ns // 2, LEAST_PATIENCE_NS),
        deadline_ns=sampling.deadline_ns,
        lanes=lanes,
    )
    events = NvmlEvents(library, clock)
    try:
        reader.open()
        _send(outside, Hello(reader.driver_version, reader.indexes, reader.count))
        due_ns = int(clock.monotonic_ns())
        number = 0
        while (said := outside.wait(due_ns)) is not None:
            number += 1
            begun_ns = clock.monotonic_ns()
            _send(outside, Begin(number))
            for answer in reader.sweep(fresh=FRESH in said):
                _send(outside, answer)
            events.listen(reader.handles)
            told_ns = clock.monotonic_ns()
            for happened in events.take():
                _send(outside, happened)
            ended_ns = clock.monotonic_ns()
            _send(outside, End(number, max(0, begun_ns - due_ns), ended_ns - begun_ns, told_ns))
            # Deadlines stay on one grid; those that were missed are left out, not caught up.
            behind_ns = max(0, ended_ns - due_ns)
            due_ns += (behind_ns // period_ns + 1) * period_ns
    except NvmlStalled as error:
        _send(outside, Report(NvmlState.STALLED, str(error), error.index))
    except CollectorError as error:
        _send(outside, Report(_state_of(error), str(error)))
    finally:
        hangs = reader.is_hanging or not events.close(_EVENTS_GRACE_NS)
        if not hangs:
            reader.close()
    return not hangs


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
    parser.add_argument("--deadline-ns", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="the parent's pid")
    parser.add_argument("--skip", type=int, action="append", default=[], help="a device's index")
    parser.add_argument("--count", type=int, help="of so many GPUs; of others none is skipped")
    options = parser.parse_args(arguments)
    _die_with_parent(options.parent)
    # What the driver's library prints must not land between frames.
    frames = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    clock = SystemClock()
    outside = Outside(
        send=lambda frame: _write(frames, frame),
        wait=lambda until_ns: _read_until(sys.stdin.fileno(), clock, until_ns),
    )
    sampling = Sampling(
        max(1, options.period_ns), options.deadline_ns, frozenset(options.skip), options.count
    )
    try:
        clean = sample(PynvmlLibrary(), clock, outside, sampling, lanes=lambda: ThreadLane(clock))
    except BrokenPipeError:
        # The parent went away between two frames.
        return 0
    if not clean:
        # Threads hang in the driver: neither they nor NVML can be ended in good order.
        os._exit(0)
    return 0


def _write(descriptor: int, frame: bytes) -> None:
    """All of `frame`; it waits where the parent does not read, and resumes when it does."""
    rest = memoryview(frame)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_until(descriptor: int, clock: Clock, until_ns: int) -> bytes | None:
    """Wait until `until_ns`: what came through `descriptor`; None once its other end is closed."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    said = b""
    while True:
        left_ns = until_ns - clock.monotonic_ns()
        # Rounded up: poll counts whole milliseconds and must not spin through the last one.
        milliseconds = max(0, -(-left_ns // _NS_PER_MILLISECOND))
        if poller.poll(milliseconds):
            read = os.read(descriptor, 4096)
            if not read:
                return None
            said += read
        if left_ns <= 0:
            return said


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
