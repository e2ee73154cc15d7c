"""`apportion profile gpu`: a trace of torch.profiler of a few steps of a running trainer."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from apportion.agent.capture_request import MOST_STEPS, CaptureRequest
from apportion.agent.cli.flamegraph_graph import Graph
from apportion.agent.cli.flamegraph_output import add_output, checked_out, write
from apportion.agent.cli.profile_burst import (
    add_store,
    config_for,
    store_of,
    unwritable,
    who,
)
from apportion.agent.cli.profile_drawing import drawn
from apportion.agent.cli.said import say
from apportion.agent.duration import Duration
from apportion.agent.left_trace import LeftTrace
from apportion.agent.pipeline.node_time import boot_id
from apportion.agent.profile_store import ProfileRecord, ProfileStore
from apportion.agent.profiled_process import ProfiledProcess
from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import ConfigError, ProfilerError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.reader import LedgerReader
from apportion.profiles.speedscope import speedscope_json

_LOOK_NS: Final = NS_PER_SECOND // 20


def configure_gpu(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--workload", required=True, metavar="NAME", help="a trainer, by its name")
    parser.add_argument("--rank", type=int, help="this rank of it (default: lowest)")
    parser.add_argument(
        "--steps",
        type=_steps,
        default=5,
        metavar="N",
        help=f"so many steps, to {MOST_STEPS} (default: %(default)s)",
    )
    parser.add_argument(
        "--patience",
        type=_duration,
        default=Duration(300 * NS_PER_SECOND),
        metavar="TIME",
        help="give up after this time (default: %(default)s)",
    )
    parser.add_argument(
        "--no-drawing",
        action="store_true",
        help="do not wait until the ledger has settled the steps, and draw nothing",
    )
    add_output(parser, "Devices", default="")
    add_store(parser)
    parser.epilog = (
        "The trainer must run with apportion's client, steps and PyTorch. It is slower while it is "
        "traced, and waits while the trace is written. What comes is drawn in money, for /profiles "
        "and --out; `apportion trace` and `apportion flamegraph` read the trace itself."
    )


def run_gpu(options: argparse.Namespace) -> int:
    """Take it; the exit status."""
    form = checked_out(options) if options.out else None
    if form is not None and options.no_drawing:
        raise ConfigError("--out is for the drawing, which --no-drawing leaves out")
    clock = SystemClock()
    store, taken_ns = store_of(options), clock.realtime_ns()
    try:
        path, process = _captured(options, store, clock, taken_ns)
    except ProfilerError as error:
        with suppress(OSError):
            store.note(_record(options, taken_ns, None, error.reason))
        raise
    except OSError as error:
        raise ConfigError(
            f"{error.filename or store.directory}: {error.strerror}; run as the agent's user"
        ) from error
    sys.stdout.write(f"{path}\n")
    sys.stdout.flush()
    if options.no_drawing:
        return 0
    graph = _drawn(options, store, clock, path, process)
    if form is not None:
        write(options, graph.written(form))
        say([f"{options.out}: {graph.amount} in all"])
    return 0


def _captured(
    options: argparse.Namespace, store: ProfileStore, clock: Clock, taken_ns: int
) -> tuple[Path, ProfiledProcess]:
    config = config_for(options)
    boot = boot_id(config.proc_root)
    with LedgerReader.of(config.ledger_location, clock=clock) as ledger:
        process = ProfiledProcess.of(ledger, options.workload, boot, options.rank)
    request = CaptureRequest(config.state_dir, clock, boot)
    wish = request.ask(process.ring, options.steps, options.patience.ns)
    until_ns, never = clock.monotonic_ns() + options.patience.ns, threading.Event()
    try:
        trace = LeftTrace(process.ring, wish, config.ring_dir, config.pods_dir)
        while not trace.is_there:
            if clock.monotonic_ns() > until_ns:
                raise ProfilerError(
                    f"process {process.pid} left no trace in {trace.directory} within "
                    f"{options.patience}: is the agent "
                    "running with this configuration, has the process loaded PyTorch, and does it "
                    "begin steps of apportion's client? Its client.counts() has capture_failed "
                    "where it tried",
                    "silent",
                )
            clock.wait(never, _LOOK_NS)
    finally:
        request.withdraw()
    name = store.name(taken_ns, "gpu", options.workload)
    path = store.add(_record(options, taken_ns, process.pid, None, name), trace.take())
    return path, process


def _drawn(
    options: argparse.Namespace,
    store: ProfileStore,
    clock: Clock,
    path: Path,
    process: ProfiledProcess,
) -> Graph:
    """The trace in money, kept beside it.

    Raises:
        ConfigError: the trace cannot be read, or its drawing not be kept.
    """
    location = config_for(options).ledger_location
    stacks = drawn(path, options.workload, process.ring, location, clock).stacks
    title = f"{options.title} of {options.workload}"
    try:
        store.add_drawing(path.name, speedscope_json(stacks.merged(), title))
    except OSError as error:
        raise unwritable(store, error) from error
    return Graph(stacks, 0, title, options.min_width)


def _record(
    options: argparse.Namespace,
    taken_ns: int,
    pid: int | None,
    error: str | None,
    file: str | None = None,
) -> ProfileRecord:
    return ProfileRecord(
        taken_unix_ns=taken_ns,
        kind="gpu",
        who=who(),
        pid=pid,
        workload=options.workload,
        duration_s=None,
        samples=None,
        cpu_s=None,
        file=file,
        error=error,
        steps=None if error else options.steps,
    )


def _steps(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_STEPS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps from 1 to {MOST_STEPS}")
    return int(text)


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as failure:
        raise argparse.ArgumentTypeError(str(failure)) from failure
