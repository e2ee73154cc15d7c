"""NCCL's traffic: the `nccl` collector reads what PyTorch and NCCL's Inspector leave in files.

Two sources, never both for one process: the Inspector's log (`nccl_dirs`) where there is one, else
the Flight Recorder's dumps, which the client puts beside its ring. Link traffic is told apart, by
the `network` collector and the devices.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from apportion.collectors.collector import Batch
from apportion.collectors.flight_recorder import MOST_BYTES, Dump, read_dump
from apportion.collectors.nccl_inspector import read_line
from apportion.collectors.nccl_totals import NcclTotals
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NoData
from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_MINUTE

_BY: Final = ("communicator", "collective")
_SOURCE: Final = "Flight Recorder or Inspector"
FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_nccl_bytes_total",
        "counter",
        "bytes",
        _BY,
        "Bytes of collective operations, over the ranks of this node: the size S of each one as "
        "NCCL's tests define it.",
        _SOURCE,
    ),
    Family(
        "apportion_nccl_operations_total",
        "counter",
        "operations",
        _BY,
        "Operations that ended, over the ranks of this node.",
        _SOURCE,
    ),
    Family(
        "apportion_nccl_seconds_total",
        "counter",
        "seconds",
        _BY,
        "Time in them, over the ranks of this node. Absent: their source measures no time.",
        _SOURCE,
    ),
    Family(
        "apportion_nccl_wait_seconds_total",
        "counter",
        "seconds",
        _BY,
        "Of that, what ranks of this node took longer than the quickest of them: they waited.",
        _SOURCE,
    ),
    Family(
        "apportion_nccl_algorithm_bandwidth_bytes_per_second",
        "gauge",
        "bytes per second",
        _BY,
        "S over time, of the operations since the last look.",
        _SOURCE,
    ),
    Family(
        "apportion_nccl_bus_bandwidth_bytes_per_second",
        "gauge",
        "bytes per second",
        _BY,
        "The same for what crosses the slowest link.",
        _SOURCE,
    ),
    Family(
        "apportion_nccl_missed_operations_total",
        "counter",
        "operations",
        (),
        "Operations that a buffer had overwritten before it was read.",
        _SOURCE,
    ),
    Family(
        "apportion_nccl_unreadable_total",
        "counter",
        "records",
        (),
        "Dumps and lines that could not be read.",
        _SOURCE,
    ),
    Family(
        "apportion_nccl_dump_seconds_total",
        "counter",
        "seconds",
        (),
        "What taking the dumps has cost the instrumented processes.",
        _SOURCE,
    ),
)

DUMP_SUFFIX: Final = ".nccl"
"""Of the client's dumps; before it stands the name of its ring."""
RING_SUFFIX: Final = ".ring"
MOST_FILES: Final = 1_024
READ_BYTES: Final = 4 << 20
"""Of one log at a time: what is left comes at the next look."""
ABANDONED_NS: Final = 10 * NS_PER_MINUTE
_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class _Log:
    """How far one Inspector's log has been read."""

    inode: int
    offset: int = 0
    rest: bytes = b""


@dataclass(slots=True)
class _Recorder:
    """What was read of one process's Flight Recorder."""

    stamp: tuple[int, int] = (0, 0)
    last: int = -1
    pending: set[int] = field(default_factory=set[int])


class Nccl:
    """The `nccl` collector. The files belong to others: whatever is in them is only counted."""

    def __init__(self, options: CollectorOptions, clock: Clock) -> None:
        self._ring_dir, self._dirs = options.ring_dir, options.nccl_dirs
        self._clock = clock
        self._totals = NcclTotals()
        self._logs: dict[Path, _Log] = {}
        self._recorders: dict[Path, _Recorder] = {}
        self._inspected: set[int] = set()
        self._unreadable = 0
        self._cost_ns = 0
        self._found = False
        self._unlisted: dict[Path, str] = {}

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "nccl"

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """Read what is new, and tell the sums.

        Raises:
            NoData: no process has left anything yet.
            CollectorError: nothing that was left can be read.
        """
        dumps: list[Path] = []
        for directory in self._dirs:
            for path in self._listed(directory):
                if path.suffix == ".log":
                    self._read_log(path)
                else:
                    dumps.append(path)
        if self._ring_dir is not None:
            dumps += _dumps(self._ring_dir)
        for path in dumps:
            self._read_recorder(path)
        if not self._found:
            raise self._nothing()
        samples = [
            *self._totals.samples(),
            Sample("nccl_unreadable_total", self._unreadable),
            Sample("nccl_dump_seconds_total", self._cost_ns / 1e9),
        ]
        return Batch(samples=tuple(samples))

    def close(self) -> None:
        """Nothing is held open."""

    def _listed(self, directory: Path) -> list[Path]:
        """The files of a directory that a person has named; why it cannot be read is kept."""
        try:
            paths = sorted(directory.iterdir())[:MOST_FILES]
        except OSError as error:
            sentence = f"nccl_dirs: {directory}: {error.strerror}"
            if self._unlisted.get(directory) != sentence:
                _LOG.warning("collector %s: %s", self.name, sentence)
            self._unlisted[directory] = sentence
            return []
        self._unlisted.pop(directory, None)
        return paths

    def _nothing(self) -> CollectorError:
        """Why there is nothing to tell."""
        places = [*([self._ring_dir] if self._ring_dir else []), *self._dirs]
        told = ", ".join(map(str, places))
        if not places:
            return NoData("no directory to look in is named: set `ring_dir` or `nccl_dirs`")
        if self._unlisted:
            return CollectorError("; ".join(self._unlisted.values()))
        if self._unreadable:
            return CollectorError(
                f"none of {self._unreadable} files in {told} is a dump of a Flight Recorder"
            )
        return NoData(f"no dump of a Flight Recorder and no log of an Inspector in {told}")

    # -- the Inspector's logs --------------------------------------------------------------------
    def _read_log(self, path: Path) -> None:
        found = _open(path)
        if found is None:
            return
        fd, facts = found
        with os.fdopen(fd, "rb") as file:
            log = self._logs.get(path)
            if log is None or log.inode != facts.st_ino or facts.st_size < log.offset:
                log = self._logs[path] = _Log(facts.st_ino)  # rotated, or written anew
            file.seek(log.offset)
            data = file.read(READ_BYTES)
        self._found = True
        log.offset += len(data)
        *lines, log.rest = (log.rest + data).split(b"\n")
        if len(log.rest) > READ_BYTES:
            log.rest = b""
            self._unreadable += 1
        for line in lines:
            if line.strip():
                self._read_line(path, line)

    def _read_line(self, path: Path, line: bytes) -> None:
        try:
            pid, operation = read_line(line.decode("utf-8", "replace"))
        except CollectorError:
            self._unreadable += 1
            return
        if pid is not None:
            self._inspected.add(pid)
        self._totals.add(str(path), operation)

    # -- the Flight Recorder's dumps -------------------------------------------------------------
    def _read_recorder(self, path: Path) -> None:
        found = _open(path)
        if found is None:
            return
        fd, facts = found
        recorder = self._recorders.setdefault(path, _Recorder())
        stamp = (facts.st_ino, facts.st_mtime_ns)
        with os.fdopen(fd, "rb") as file:
            if stamp == recorder.stamp:
                self._tidy(path, facts)
                return
            recorder.stamp = stamp
            data = file.read(MOST_BYTES + 1)
        try:
            dump = read_dump(data)
        except CollectorError:
            self._unreadable += 1
            return
        self._found = True
        self._cost_ns += dump.cost_ns or 0
        if dump.pid is None or dump.pid not in self._inspected:
            self._take(path, recorder, dump)

    def _take(self, path: Path, recorder: _Recorder, dump: Dump) -> None:
        """Each record once: new ones, and those that had not ended when they were seen before."""
        records = {operation.record for operation in dump.operations} | dump.pending
        first = min(records, default=recorder.last + 1)
        if 0 <= recorder.last < first - 1:
            self._totals.missed += first - 1 - recorder.last
        for operation in dump.operations:
            if operation.record > recorder.last or operation.record in recorder.pending:
                self._totals.add(str(path), operation)
        recorder.pending = set(dump.pending)
        recorder.last = max(recorder.last, max(records, default=recorder.last))

    def _tidy(self, path: Path, facts: os.stat_result) -> None:
        """Remove a dump that the client of a ring left when it died."""
        if path.parent != self._ring_dir or path.with_suffix(RING_SUFFIX).exists():
            return
        if self._clock.realtime_ns() - facts.st_mtime_ns > ABANDONED_NS:
            with contextlib.suppress(OSError):
                path.unlink()
            self._recorders.pop(path, None)


def _dumps(ring_dir: Path) -> list[Path]:
    """The clients' dumps beside their rings, in order; none where there are no rings yet."""
    try:
        return sorted(path for path in ring_dir.iterdir() if path.suffix == DUMP_SUFFIX)[
            :MOST_FILES
        ]
    except OSError:
        return []


def _open(path: Path) -> tuple[int, os.stat_result] | None:
    """A file of somebody else's, opened so that it can neither lead elsewhere nor block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        return None
    return fd, facts


@BUILT_IN.register("nccl", default=True, devices=False)
def make_nccl(options: CollectorOptions, clock: Clock) -> Nccl:
    """The nccl collector."""
    return Nccl(options, clock)
