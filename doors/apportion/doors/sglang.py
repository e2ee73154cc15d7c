r"""`apportion sglang`: requests of SGLang servers, by the log that each of them writes.

    python -m sglang.launch_server ... --enable-metrics \
        --export-metrics-to-file --export-metrics-to-file-dir /var/log/sglang
    apportion sglang --log chat-api=/var/log/sglang --devices chat-api=GPU-8f3a...

Standard library only: it also runs beside the server, where its directory is. `--forward-passes`,
by which requests are divided as they shared the engine's batches, needs the extra `sglang`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from apportion.doors.log_tail import LogTail
from apportion.doors.process import (
    REPORT_S,
    add_options,
    pair,
    rings_of,
    say_counts,
    say_listening,
    until_stopped,
)
from apportion.doors.sglang_line import told_request
from apportion.doors.span_rings import SpanRings
from apportion.doors.told_request import Malformed

if TYPE_CHECKING:
    from apportion.doors.forward_passes import ForwardPasses

PREFIX: Final = "sglang-request-metrics-"
MOST_AT_ONCE: Final = 2_000
"""Lines: an agent reads its rings many times a second, and a ring holds 16 times as many."""
LOOK_S: Final = 0.25
RECENT_NS: Final = 600_000_000_000
"""Without a place to go on from, what ended before is history."""
FUTURE_NS: Final = 1_000_000_000
OUTCOMES: Final = ("accepted", "malformed", "refused", "old")


def _realtime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


class SglangLogs:
    """The logs of several services. `counts` are their lines, by what became of them."""

    def __init__(
        self,
        rings: SpanRings,
        logs: Sequence[tuple[str, Path]],
        *,
        tenant_label: str | None = None,
        state: Path | None = None,
        realtime_ns: Callable[[], int] = _realtime_ns,
    ) -> None:
        """`logs` are services and directories. In `state` is how far they have been read."""
        self._rings, self._tenant_label, self._state = rings, tenant_label, state
        self._realtime_ns = realtime_ns
        self._tails = [(service, LogTail(path, PREFIX)) for service, path in logs]
        self._counts: Counter[str] = Counter()
        self._since_ns = realtime_ns() - RECENT_NS
        known = _read_state(state)
        self._goes_on = {path: known[str(path)] for _, path in logs if str(path) in known}
        for _, tail in self._tails:
            if tail.directory in self._goes_on:
                tail.restore(self._goes_on[tail.directory])
            else:
                tail.skip(self._since_ns)
        self.problems: dict[str, str] = {}
        """By service why its directory cannot be read."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Lines so far: accepted, malformed, refused (too many services), old."""
        too_long = sum(tail.too_long for _, tail in self._tails)
        return {**self._counts, "malformed": self._counts["malformed"] + too_long}

    def look(self) -> None:
        """Take what is new, or `MOST_AT_ONCE` of each directory.

        Raises:
            OSError: a ring cannot be made, or the state cannot be written.
        """
        if sum([self._take(service, tail) for service, tail in self._tails]):
            self._remember()

    def _take(self, service: str, tail: LogTail) -> int:
        taken = 0
        try:
            for line in tail.lines(MOST_AT_ONCE):
                self._counts[self._outcome(service, line, tail)] += 1
                taken += 1
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            self.problems[service] = f"{error.filename}: {error.strerror}"
        else:
            self.problems.pop(service, None)
        return taken

    def _outcome(self, service: str, line: bytes, tail: LogTail) -> str:
        told = told_request(line, service, self._tenant_label)
        if isinstance(told, Malformed) or told.end_ns > self._realtime_ns() + FUTURE_NS:
            return "malformed"
        if told.end_ns < self._since_ns and tail.directory not in self._goes_on:
            return "old"
        return "accepted" if self._rings.write(told) else "refused"

    def _remember(self) -> None:
        """After the rings, so that nothing is lost; what is read twice then the agent merges."""
        if self._state is None:
            return
        places = {str(tail.directory): tail.position for _, tail in self._tails}
        beside = self._state.with_name(f".{self._state.name}.{os.getpid()}")
        beside.write_text(json.dumps(places))
        beside.replace(self._state)


def _read_state(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        found: object = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}


def main(argv: Sequence[str]) -> int:
    """Read until SIGTERM, or with `--counts` until standard input ends; 2 where it cannot."""
    options = _parser().parse_args(argv)
    try:
        rings = rings_of(options)
    except ValueError as error:
        sys.stderr.write(f"apportion sglang: {error}\n")
        return 2
    logs = [(service, Path(path)) for service, path in options.log]
    try:
        with (
            until_stopped(with_input=options.counts) as stop,
            _forward_passes(options.forward_passes) as passes,
        ):
            read = SglangLogs(rings, logs, tenant_label=options.tenant_label, state=options.state)
            say_listening({service: str(path) for service, path in logs})
            said_s, told = 0.0, dict[str, str]()
            while not stop.wait(0 if passes else LOOK_S):
                for service, iteration in passes.hear(LOOK_S) if passes else ():
                    rings.write_iteration(service, iteration)
                read.look()
                if read.problems != told:
                    told = dict(read.problems)
                    for service, problem in sorted(told.items()):
                        sys.stderr.write(f"apportion sglang: {service}: {problem}\n")
                if options.counts and time.monotonic() - said_s >= REPORT_S:
                    said_s = time.monotonic()
                    say_counts(lambda: {**read.counts, **(passes.counts if passes else {})})
    except OSError as error:
        sys.stderr.write(f"apportion sglang: {error.filename}: {error.strerror}\n")
        return 2
    finally:
        rings.close()
    return 0


def _forward_passes(
    names: Sequence[tuple[str, str]],
) -> AbstractContextManager[ForwardPasses | None]:
    """Loaded where somebody asks for it: it needs ZeroMQ.

    Raises:
        ModuleNotFoundError: that is not installed.
    """
    if not names:
        return nullcontext()
    module = importlib.import_module("apportion.doors.forward_passes")
    passes: ForwardPasses = module.ForwardPasses(names)
    return closing(passes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apportion sglang",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--log",
        type=pair,
        action="append",
        required=True,
        metavar="SERVICE=DIR",
        help="a service, and its --export-metrics-to-file-dir",
    )
    parser.add_argument(
        "--forward-passes",
        type=pair,
        action="append",
        default=[],
        metavar="SERVICE=ipc://PATH",
        help="a service, and its --forward-pass-metrics-ipc-name",
    )
    parser.add_argument(
        "--tenant-label", metavar="NAME", help="who asked: a label of x-custom-labels"
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="where to keep how far it has read"
    )
    add_options(parser)
    return parser
