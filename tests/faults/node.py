"""One host under test: its directories, its simulated GPUs, and the real processes on it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Final, TypeVar

import yaml
from tests.faults.book import Book
from tests.faults.door import Door
from tests.faults.forked import ForkedProcess

from apportion.agent.cli import main
from apportion.simulator import Simulator, environment

PATIENCE_S: Final = 60.0
"""How long anything may take on a busy machine; a condition that holds ends the wait at once."""
PRICES: Final = """prices:
  - device: NVIDIA H100 80GB HBM3
    per_hour: "2.40"
    currency: USD
    covers: gpu
    basis: list-estimate
    source: the fault tests
    as_of: 2026-05-01
"""
PROGRAMS: Final = Path(__file__).parent / "programs"
_COMMAND: Final = (
    sys.executable,
    "-c",
    "import sys; from apportion.agent.cli import main; sys.exit(main(sys.argv[1:]))",
)
_WITHOUT_OVERRIDE: Final = """
import ctypes, os, sys
PR_CAPBSET_DROP, DAC_OVERRIDE, DAC_READ_SEARCH = 24, 1, 2
prctl = ctypes.CDLL(None, use_errno=True).prctl
for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
    if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot drop a capability")
os.execv(sys.argv[1], sys.argv[1:])
"""

Seen = TypeVar("Seen")
DaemonProcess = ForkedProcess | subprocess.Popen[bytes]
SmallFileSystem = Callable[[Path, int], Path]
"""Mounts a tmpfs of so many bytes at a path (a fixture of conftest.py)."""


def eventually(
    look: Callable[[], Seen], what: str, *, patience_s: float = PATIENCE_S, every_s: float = 0.05
) -> Seen:
    """What `look` returns once it is true; fails the test where that takes `patience_s`."""
    deadline = time.monotonic() + patience_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s:.0f} s: {what}; last seen: {seen!r}")
        time.sleep(every_s)


def sleep_until(moment_s: float) -> None:
    """Until a moment of the monotonic clock; for faults at random moments, never to wait for."""
    time.sleep(max(0.0, moment_s - time.monotonic()))


class Agent:
    """The real daemon in a process of its own."""

    def __init__(self, process: DaemonProcess, door: Door, log: Path, book: Book) -> None:
        self.process = process
        self.door = door
        self.book = book
        self._log = log

    @property
    def log(self) -> str:
        """What it wrote to its standard error so far."""
        return self._log.read_text()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def eventually(
        self, look: Callable[[], Seen], what: str, *, patience_s: float = PATIENCE_S
    ) -> Seen:
        """As the function; an agent that ends meanwhile fails the test at once, with its log."""

        def watched() -> Seen:
            assert self.alive, f"the agent ended while waiting for {what}:\n{self.log}"
            return look()

        try:
            return eventually(watched, what, patience_s=patience_s)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.log}") from failure

    def until_ready(self) -> Agent:
        """Wait until /readyz says so."""
        self.eventually(self.door.ready, "/readyz answers 200")
        return self

    def children(self) -> list[int]:
        """The pids of its child processes."""
        path = Path(f"/proc/{self.process.pid}/task")
        found: list[int] = []
        for task in sorted(path.iterdir()):
            found += map(int, (task / "children").read_text().split())
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


class Workload:
    """A real process that uses the client: one of `programs`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def say(self, line: object) -> None:
        """Give it a line to read, and wait until it has answered `done`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def end(self, patience_s: float = PATIENCE_S) -> tuple[int, str]:
        """End its input and wait for it: its exit status and what it printed since."""
        output, _ = self.process.communicate(timeout=patience_s)
        return self.process.returncode, output


class Node:
    """Directories below `root`, prices, a simulator, and everything that was started here.

    Ticks, readings and lateness are short so that tests are; any key of the configuration can
    be given to `config` and `agent`.
    """

    patience_s = PATIENCE_S
    """How long a command may take."""

    def __init__(self, root: Path, simulator: Simulator, library: Path) -> None:
        self.root = root
        self.simulator = simulator
        self.library = library
        self.rings = root / "rings"
        self.prices = root / "prices.yaml"
        self.prices.write_text(PRICES)
        self._processes: list[DaemonProcess | subprocess.Popen[str]] = []
        self._files: list[IO[bytes]] = []

    def config(self, name: str = "agent", **keys: object) -> Path:
        """Write a configuration; its path."""
        values: dict[str, object] = {
            "listen": "127.0.0.1:0",
            "devices": "simulator",
            "prices": str(self.prices),
            "state_dir": str(self.root / f"state-{name}"),
            "ring_dir": str(self.rings),
            "lock_dir": str(self.root / "locks"),
            "sample_period": "200ms",
            "tick_period": "400ms",
            "lateness": "800ms",
            "node": "fault-node",
            **keys,
        }
        path = self.root / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: v for key, v in values.items() if v is not None}))
        return path

    def agent(
        self,
        name: str = "agent",
        *,
        override_rights: bool = True,
        variables: Mapping[str, str] | None = None,
        **keys: object,
    ) -> Agent:
        """Start an agent. Without `override_rights` root must ask file modes like everybody."""
        config = self.config(name, **keys)
        log = self.root / f"{name}-{len(self._files)}.log"
        stream = log.open("xb")
        self._files.append(stream)
        env = self.environment({**self.simulated(), **(variables or {})})
        process: DaemonProcess
        if override_rights:
            process = ForkedProcess(["agent", "--config", str(config)], env, log)
        else:
            process = subprocess.Popen(
                self.command("agent", "--config", config, override_rights=False),
                env=env,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._processes.append(process)
        state = Path(yaml.safe_load(config.read_text())["state_dir"])
        return Agent(process, Door(log), log, Book(state / "ledger.db"))

    def command(
        self, name: str, *arguments: object, override_rights: bool = True
    ) -> tuple[str, ...]:
        """A command line of `apportion`."""
        return rightless((*_COMMAND, name, *map(str, arguments)), override=override_rights)

    def run(self, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run an `apportion` command to its end."""
        return subprocess.run(
            self.command(name, *arguments),
            env=self.environment(self.simulated()),
            capture_output=True,
            text=True,
            timeout=self.patience_s,
            check=False,
        )

    def ask(self, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The same of a command that only reads a ledger, in this process: a second less each."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main([name, *map(str, arguments)])
        return subprocess.CompletedProcess([name], status, out.getvalue(), err.getvalue())

    def audit(self, book: Book) -> list[str]:
        """What does not add up in a ledger, by `apportion audit` and by the book's own sums."""
        done = self.ask("audit", "--ledger", book.path)
        said = [] if (done.returncode, done.stderr) == (0, "") else [done.stdout, done.stderr]
        return [*said, *book.faults()]

    def workload(
        self, program: str, *arguments: object, override_rights: bool = True, **variables: str
    ) -> Workload:
        """Start one of `programs`, with pipes for its streams and in a session of its own."""
        command = (sys.executable, str(PROGRAMS / f"{program}.py"), *map(str, arguments))
        return self.started(rightless(command, override=override_rights), **variables)

    def started(self, command: Sequence[str], **variables: str) -> Workload:
        """Start any command so; it gets `variables` beside those of a workload."""
        process = subprocess.Popen(
            command,
            env=self.environment({"APPORTION_RING_DIR": str(self.rings), **variables}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return Workload(process)

    def simulated(self) -> dict[str, str]:
        """Variables with which a process loads the simulated library."""
        return environment(self.simulator.state, self.library)

    @staticmethod
    def environment(more: Mapping[str, str]) -> dict[str, str]:
        """This process's environment without what would lead a child astray, and `more`."""
        astray = ("APPORTION_", "CUDA_", "NVIDIA_", "XDG_")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(astray)}
        return {**kept, **more}

    def close(self) -> None:
        """End everything that was started here."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for stream in self._files:
            stream.close()


def rightless(command: Sequence[str], *, override: bool) -> tuple[str, ...]:
    """`command`, where not `override` in a process in which even root must have a file's rights."""
    if override or os.geteuid() != 0:
        return tuple(command)
    return (sys.executable, "-c", _WITHOUT_OVERRIDE, *command)
