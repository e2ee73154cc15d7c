"""`apportion profile continuous`: bursts of py-spy for as long as it runs."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
from types import FrameType

from apportion.agent.cli.profile_burst import CpuBursts, Taken, add_burst
from apportion.agent.duration import Duration
from apportion.agent.profile_pace import DEAR, ProfilePace
from apportion.core.clock import SystemClock
from apportion.core.errors import ProfilerError
from apportion.core.units import NS_PER_SECOND
from apportion.profiles.py_spy import PySpy


def configure_continuous(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_burst(parser)
    parser.add_argument(
        "--every",
        type=_duration,
        default=Duration(300 * NS_PER_SECOND),
        metavar="TIME",
        help="from one burst to the next (default: %(default)s)",
    )
    parser.add_argument("--count", type=int, metavar="N", help="end after so many bursts")
    parser.epilog = (
        "After a burst that failed, came late or took more than half of its budget the next one "
        "waits twice as long, up to an hour. SIGINT and SIGTERM end it. With --workload it follows "
        "restarts; with --pid it ends with the process, with status 1."
    )


def run_continuous(options: argparse.Namespace) -> int:
    """Take them until a signal comes; the exit status."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _go_on(options, CpuBursts(options, PySpy(), SystemClock()), stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _go_on(options: argparse.Namespace, bursts: CpuBursts, stop: threading.Event) -> int:
    pace = ProfilePace.of(options.every.ns / NS_PER_SECOND)
    left = options.count
    while True:
        try:
            taken = bursts.take()
        except ProfilerError as error:
            sys.stderr.write(f"apportion: {error}\n")
            if options.pid is not None and error.reason == "gone":
                return 1
            pace = pace.after(bad=True)
        else:
            sys.stdout.write(f"{taken.path}\n")
            sys.stdout.flush()
            pace = pace.after(bad=_is_bad(taken, bursts))
        left = None if left is None else left - 1
        # not in step with anything periodic in the process
        if left == 0 or stop.wait(pace.waiting_s * random.uniform(0.9, 1.1)):
            return 0


def _is_bad(taken: Taken, bursts: CpuBursts) -> bool:
    budget_s = bursts.burst.cpu_budget * bursts.burst.duration_s
    return taken.profile.late or taken.profile.cpu_s > DEAR * budget_s


def _duration(text: str) -> Duration:
    try:
        duration = Duration.parse(text)
    except ValueError as failure:
        raise argparse.ArgumentTypeError(str(failure)) from failure
    if not duration.ns:
        raise argparse.ArgumentTypeError("must be more than nothing")
    return duration
