"""What the agent costs the work beside it: the same work without it and with it, in turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil
import yaml

from apportion.agent.config import AgentConfig
from apportion.client import layout
from apportion.core.clock import Clock
from apportion.core.errors import ApportionError
from apportion.core.units import NS_PER_SECOND

PAIRS: Final = 3
"""How often the work is run without the agent and with it."""
LEAST_NS: Final = 60 * NS_PER_SECOND
"""In less time there is one run of each."""
START_NS: Final = 60 * NS_PER_SECOND
STOP_S: Final = 20.0
WORK: Final = ("-m", "apportion.client.acceptance", "work")
_TRIAL_STEPS: Final = 20
_AGENT: Final = (
    sys.executable,
    "-c",
    "import sys; from apportion.agent.cli import main; sys.exit(main(sys.argv[1:]))",
    "agent",
    "--config",
)
_LOOK_NS: Final = NS_PER_SECOND // 20


class WorkFailedError(ApportionError):
    """The work that was to be measured did not end well."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is run: a person's own `command`, or steps of ours in the interpreter `python`."""

    python: str
    command: Sequence[str] = ()

    def sized(self, clock: Clock, folder: Path, duration_ns: int) -> Sequence[str]:
        """The command whose run takes about so long; a person's own as it is."""
        if self.command:
            return self.command
        trial = (self.python, *WORK, str(_TRIAL_STEPS))
        seconds = float(json.loads(run(trial, clock, folder)[1])["seconds"])
        steps = max(1, int(_TRIAL_STEPS * duration_ns / NS_PER_SECOND / max(seconds, 1e-6)))
        return (self.python, *WORK, str(steps))


def run(command: Sequence[str], clock: Clock, rings: Path) -> tuple[float, str]:
    """Seconds that a command takes, by its own word where it says so, and what it prints.

    Raises:
        WorkFailedError: it cannot be run, or fails.
    """
    begun_ns = clock.monotonic_ns()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, layout.DIRECTORY_VARIABLE: str(rings)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise WorkFailedError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2][:200]
        raise WorkFailedError(f"{command[0]} ended with {done.returncode}: {last}")
    seconds = (clock.monotonic_ns() - begun_ns) / NS_PER_SECOND
    return seconds, done.stdout


def overhead(
    config: AgentConfig, clock: Clock, folder: Path, *, work: Work, duration_ns: int
) -> dict[str, Any]:
    """Both times of the work, and the agent's own CPU and memory while it ran.

    An agent of its own is run, with an empty ledger below `folder`: what is measured is posted
    nowhere.

    Raises:
        WorkFailedError: the work or the agent does not run.
    """
    pairs = PAIRS if duration_ns >= LEAST_NS else 1
    command = work.sized(clock, folder, duration_ns // (2 * pairs))
    rings = folder / "rings"
    without: list[float] = []
    beside: list[float] = []
    costs: list[tuple[float, int]] = []
    if work.command:
        run(command, clock, folder / "none")  # what is loaded once is loaded now
    for _ in range(pairs):
        without.append(_seconds(*run(command, clock, folder / "none")))
        with _agent(config, clock, folder) as process:
            tree = _Tree(process.pid, clock)
            beside.append(_seconds(*run(command, clock, rings)))
            costs.append(tree.cost())
    return {
        "work": "a command of the user's" if work.command else " ".join(command[1:]),
        "without_s": without,
        "with_s": beside,
        "slower_percent": 100 * (median(beside) / median(without) - 1),
        "agent_cpu_percent": median(cpu for cpu, _ in costs),
        "agent_resident_bytes": max(resident for _, resident in costs),
    }


def _seconds(taken_s: float, printed: str) -> float:
    """What the work itself says that it took, without its start; else all of it."""
    try:
        return float(json.loads(printed.strip().rpartition("\n")[2])["seconds"])
    except (ValueError, KeyError, TypeError):
        return taken_s


@contextmanager
def _agent(config: AgentConfig, clock: Clock, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """The real agent, as configured, but with directories of its own."""
    values = config.model_dump(mode="json", exclude_none=True)
    values.pop("shared_ledger", None)
    values |= {
        "listen": "127.0.0.1:0",
        "state_dir": str(folder / "state"),
        "ledger": str(folder / "state" / "ledger.db"),
        "ring_dir": str(folder / "rings"),
        "lock_dir": str(folder / "locks"),
    }
    path = folder / "agent.yaml"
    path.touch(mode=0o600)  # it may hold passwords
    path.write_text(yaml.safe_dump(values))
    heartbeat = folder / "rings" / layout.AGENT_FILE
    heartbeat.unlink(missing_ok=True)
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen((*_AGENT, str(path)), stdout=log, stderr=log)
        try:
            _until_there(heartbeat, process, clock, folder / "agent.log")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_there(
    heartbeat: Path, process: subprocess.Popen[bytes], clock: Clock, log: Path
) -> None:
    never = threading.Event()
    end_ns = clock.monotonic_ns() + START_NS
    while not heartbeat.exists():
        if process.poll() is not None or clock.monotonic_ns() > end_ns:
            said = log.read_text(errors="replace").strip().rpartition("\n")[2][:200]
            raise WorkFailedError(f"the agent did not start: {said}")
        clock.wait(never, _LOOK_NS)


class _Tree:
    """CPU and memory of a process and its children from now on."""

    def __init__(self, pid: int, clock: Clock) -> None:
        self._process, self._clock = psutil.Process(pid), clock
        self._begun_ns, self._cpu_s = clock.monotonic_ns(), self._used()[0]

    def cost(self) -> tuple[float, int]:
        """Percent of one core since the start, resident bytes now."""
        cpu_s, resident_bytes = self._used()
        elapsed_s = (self._clock.monotonic_ns() - self._begun_ns) / NS_PER_SECOND
        return 100 * (cpu_s - self._cpu_s) / elapsed_s, resident_bytes

    def _used(self) -> tuple[float, int]:
        cpu_s, resident_bytes = 0.0, 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                times = process.cpu_times()
                resident_bytes += process.memory_info().rss
            except psutil.Error:
                continue
            cpu_s += times.user + times.system
        return cpu_s, resident_bytes
