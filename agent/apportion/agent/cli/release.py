"""`apportion release`: the agent lets go of NVML for a while, so that a GPU can be reset."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final, TypeVar

from apportion.agent.cli.command import Command
from apportion.agent.cli.config_options import add_config_options, config_of
from apportion.agent.duration import Duration
from apportion.agent.pipeline.node_time import boot_id
from apportion.agent.release import LONGEST_NS, Release, Released
from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import ApportionError
from apportion.core.units import NS_PER_SECOND

PATIENCE_NS: Final = 15 * NS_PER_SECOND
"""An agent answers within a reading and the second that its child may take to end."""
SHORTEST_NS: Final = NS_PER_SECOND
"""A request that is over before an agent looks is never answered."""
_LOOK_NS: Final = NS_PER_SECOND // 20

Seen = TypeVar("Seen")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for",
        dest="duration",
        type=_duration,
        default=Duration(600 * NS_PER_SECOND),
        metavar="TIME",
        help="for how long at most, from 1s to 24h (default: %(default)s)",
    )
    parser.add_argument("--end", action="store_true", help="take the GPUs back now")
    add_config_options(parser)


def _duration(text: str) -> Duration:
    try:
        duration = Duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not SHORTEST_NS <= duration.ns <= LONGEST_NS:
        raise argparse.ArgumentTypeError(f"{text}: give from 1s to 24h")
    return duration


def _run(options: argparse.Namespace) -> int:
    config, clock = config_of(options).config, SystemClock()
    release = Release(config.state_dir, clock, boot_id(config.proc_root))
    try:
        if options.end:
            return _end(release, clock)
        return _ask(release, options.duration, clock)
    except FileNotFoundError as error:
        raise ApportionError(
            f"{config.state_dir} is not there: no agent has run with this state_dir"
        ) from error
    except OSError as error:
        message = f"{error.filename or config.state_dir}: {error.strerror}; run as the agent's user"
        raise ApportionError(message) from error


def _ask(release: Release, duration: Duration, clock: Clock) -> int:
    until_ns = release.ask(duration.ns)
    answer = _wait(lambda: _of(release.answer(), until_ns), clock)
    if answer is None:
        release.end()
        sys.stderr.write(
            "no agent that reads NVML has answered, so nothing was let go: is it running, with "
            "this configuration's state_dir?\n"
        )
        return 1
    until = datetime.fromtimestamp((clock.realtime_ns() + duration.ns) / NS_PER_SECOND).astimezone()
    sys.stdout.write(
        f"the agent has let go of NVML until {until:%H:%M:%S} ({duration} at most): reset the GPU "
        "now. Until the agent reads them again, all GPUs' time is unattributed. "
        "`apportion release --end` takes them back.\n"
    )
    if answer.stuck_pids:
        pids = ", ".join(map(str, answer.stuck_pids))
        sys.stderr.write(
            f"but process {pids} hangs in the driver and cannot be ended: it may still hold a "
            "GPU, and the reset may fail\n"
        )
        return 1
    return 0


def _end(release: Release, clock: Clock) -> int:
    if release.answer() is None:
        release.end()
        sys.stdout.write("nothing was let go\n")
        return 0
    release.end()
    if _wait(lambda: release.answer() is None, clock) is None:
        sys.stderr.write("the agent has not answered: is it running?\n")
        return 1
    sys.stdout.write("the agent reads NVML again\n")
    return 0


def _of(answer: Released | None, until_ns: int) -> Released | None:
    """The answer to this request, and not to an earlier one."""
    return answer if answer is not None and answer.until_ns == until_ns else None


def _wait(look: Callable[[], Seen | None], clock: Clock) -> Seen | None:
    never = threading.Event()
    deadline_ns = clock.monotonic_ns() + PATIENCE_NS
    while not (seen := look()) and clock.monotonic_ns() < deadline_ns:
        clock.wait(never, _LOOK_NS)
    return seen or None


COMMAND = Command(
    "Lets the agent close NVML, so that a GPU can be reset or a driver replaced; rings, settlement "
    "and /metrics go on. Exit status 1: no agent answers, or a process hangs in the driver.",
    _configure,
    _run,
)
