"""A burst of py-spy on a running Python process: from outside, without stopping it.

Sampling is non-blocking: the process is read while it runs, and a sample that was torn counts as an
error. Before py-spy attaches the number of threads is looked at, because each costs at each sample;
while it runs the kernel holds it to a budget of CPU time.

py-spy's times count from its own beginning. Its last event is the instant at which it writes, and
it writes into a pipe, so that the instant at which its first byte comes dates all of them, on the
clock that rings have: to a millisecond or two, to ten where the machine is overloaded.
"""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final

from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import ProfilerError, ProfileTraceError
from apportion.core.units import NS_PER_SECOND
from apportion.profiles.py_spy_events import PySpyEvents
from apportion.profiles.stacks import Stacks
from apportion.profiles.thread_activity import ThreadActivity

PROGRAM: Final = "py-spy"
PROCESS: Final = "process"
"""The label with the process of a sample: the boot's id and the process's, as `0f3a.../4711`."""
GRACE_S: Final = 15
"""How long py-spy may take to attach and to write, beside sampling."""
_COUNTS: Final = re.compile(r"Samples: (\d+) Errors: (\d+)")
_YAMA: Final = Path("sys/kernel/yama/ptrace_scope")
_NS_PER_US: Final = 1_000
_BOOT: Final = Path("sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Burst:
    """How a process is sampled. cpu_budget: py-spy's own, as a share of one CPU."""

    duration_s: int = 10
    rate_hz: int = 20
    max_threads: int = 256
    cpu_budget: float = 0.1
    idle: bool = False
    """Also threads that sleep or wait."""


@dataclass(frozen=True, slots=True)
class CpuProfile:
    """What a burst found. cpu_s: what py-spy used itself. late: it could not keep its rate.

    stacks: one a sample, with labels that say when, of which thread and of which process.
    """

    stacks: Stacks
    samples: int
    errors: int
    cpu_s: float
    late: bool


class PySpy:
    """Runs py-spy. One burst at a time, in a process that waits for no other child meanwhile."""

    def __init__(
        self,
        program: str | None = None,
        proc_root: Path = Path("/proc"),
        clock: Clock | None = None,
    ) -> None:
        """`program`: py-spy's path; unset, it is that on PATH or that which is installed here."""
        self._program = program or shutil.which(PROGRAM) or _installed()
        self._proc_root = proc_root
        self._clock = clock or SystemClock()

    def record(self, pid: int, burst: Burst) -> CpuProfile:
        """Sample process `pid`.

        Raises:
            ProfilerError: it cannot be sampled; the message has the remedy.
        """
        self._look_before(pid, burst)
        before, before_ns = ThreadActivity.of(pid, self._proc_root), self._clock.monotonic_ns()
        used_s = _children_s()
        status, said, written, written_ns = self._run(pid, burst)
        cpu_s = _children_s() - used_s
        if status != 0:
            raise self._refusal(pid, burst, said, status)
        try:
            events = PySpyEvents.read(written or b"[]", f"py-spy of process {pid}")
        except ProfileTraceError as error:
            raise ProfilerError(f"{error}; upgrade py-spy", "failed") from error
        if not events.sightings:
            raise ProfilerError(
                f"process {pid}: no thread was seen at work in {burst.duration_s} s; sample "
                "longer, or with --idle what waits, too",
                "idle",
            )
        counts = _COUNTS.search(said)
        elapsed_s = (self._clock.monotonic_ns() - before_ns) / NS_PER_SECOND
        after = ThreadActivity.of(pid, self._proc_root)
        stacks = events.stacks(
            int(counts[1]) if counts else 0,
            written_ns - events.written_us * _NS_PER_US,
            None if burst.idle else after.shares(before, elapsed_s),
        )
        return CpuProfile(
            stacks.labelled(PROCESS, [f"{self._boot()}/{pid}"] * len(stacks)),
            samples=len(stacks),
            errors=int(counts[2]) if counts else 0,
            cpu_s=cpu_s,
            late="behind in sampling" in said,
        )

    def _boot(self) -> str:
        try:
            return (self._proc_root / _BOOT).read_text().strip().replace("-", "")
        except OSError:
            return "unknown"

    def _look_before(self, pid: int, burst: Burst) -> None:
        threads = 0
        # what may not be looked at py-spy may not either, and says so
        with suppress(PermissionError):
            threads = self._threads(pid)
        if threads > burst.max_threads:
            raise ProfilerError(
                f"process {pid} has {threads} threads, and each costs at each sample: allow it "
                f"with --max-threads {threads}, at a lower --rate",
                "threads",
            )

    def _threads(self, pid: int) -> int:
        try:
            return len(list((self._proc_root / str(pid) / "task").iterdir()))
        except FileNotFoundError as error:
            raise _gone(pid) from error

    def _command(self, pid: int, burst: Burst, out: int) -> list[str]:
        command = [self._program, "record", "--nonblocking", "--threads"]
        command += ["--format", "chrometrace", "--output", f"/proc/self/fd/{out}"]
        command += ["--rate", str(burst.rate_hz), "--duration", str(burst.duration_s)]
        command += ["--pid", str(pid)]
        return [*command, "--idle"] if burst.idle else command

    def _run(self, pid: int, burst: Burst) -> tuple[int, str, bytes, int]:
        """Its exit status, what it said, what it wrote, and when it began to."""
        source, sink = os.pipe()
        try:
            command = self._command(pid, burst, sink)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(sink,),
            )
        except OSError as error:
            os.close(source)
            raise ProfilerError(
                f"{self._program} cannot be run ({error.strerror}): pip install "
                "'apportion[profiles]'",
                "missing",
            ) from error
        finally:
            os.close(sink)
        limit_s = max(1, math.ceil(burst.cpu_budget * burst.duration_s))
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (limit_s, limit_s + 1))
        with ThreadPoolExecutor(1, "py-spy") as pool:
            written = pool.submit(self._written, source)
            try:
                said, _ = process.communicate(timeout=burst.duration_s + GRACE_S)
                status, ending = process.returncode, ""
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
                status, ending = 1, "\nno end"
            except BaseException:
                process.kill()
                process.wait()
                raise
            return status, f"{said.decode('utf-8', 'replace')}{ending}", *written.result()

    def _written(self, source: int) -> tuple[bytes, int]:
        """What comes through a pipe, and when its first byte did."""
        with open(source, "rb", buffering=0) as pipe:
            first = pipe.read(1)
            first_ns = self._clock.monotonic_ns()
            return first + pipe.read(), first_ns

    def _refusal(self, pid: int, burst: Burst, said: str, status: int) -> ProfilerError:
        """Why py-spy ended with an error, and what to do."""
        if not (self._proc_root / str(pid)).exists():
            return _gone(pid)
        first = next((line for line in said.splitlines() if "rror" in line), said[:200]).strip()
        if re.search(r"permission denied|operation not permitted|EPERM", said, re.IGNORECASE):
            return ProfilerError(
                f"process {pid}: ptrace is refused{self._yama()}. Run as that process's user, or "
                "with the capability SYS_PTRACE; in Kubernetes add it to this container and set "
                "shareProcessNamespace: true for the pod",
                "ptrace",
            )
        if "python version" in said or "libpython" in said:
            return ProfilerError(
                f"process {pid} is no Python process, or of a Python that this py-spy does not "
                "know (free-threaded ones among them): give a Python process's id, or upgrade "
                f"py-spy; it says: {first}",
                "not_python",
            )
        if said.endswith("no end"):
            return ProfilerError(
                f"process {pid}: py-spy did not end {GRACE_S} s after its time and was stopped; "
                "try a lower --rate",
                "stuck",
            )
        if status in {-signal.SIGXCPU, -signal.SIGKILL}:
            return ProfilerError(
                f"process {pid}: py-spy used more than {burst.cpu_budget:.0%} of a CPU over "
                f"{burst.duration_s} s and was stopped: try a lower --rate, or a larger "
                "--cpu-budget",
                "budget",
            )
        return ProfilerError(f"process {pid}: py-spy failed: {first}", "failed")

    def _yama(self) -> str:
        try:
            scope = (self._proc_root / _YAMA).read_text().strip()
        except OSError:
            return ""
        return "" if scope == "0" else f" (kernel.yama.ptrace_scope is {scope})"


def _gone(pid: int) -> ProfilerError:
    return ProfilerError(
        f"process {pid} is not there: it has ended, or lives in another pid namespace "
        "(shareProcessNamespace: true lets a sidecar see it)",
        "gone",
    )


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _installed() -> str:
    """Where the package put its program: in another folder than this Python's, perhaps."""
    with suppress(PackageNotFoundError):
        for path in files(PROGRAM) or ():
            if path.name == PROGRAM and path.parent.name == "bin":
                return str(path.locate())
    return str(Path(sys.executable).with_name(PROGRAM))
