"""`make demo`: a real trainer and a real server, and what they cost, in under 90 seconds.

It starts the agent on the GPUs of this host, or on SIMULATED ones where there are none, then
`train_gpt.py`, `serve_lm.py` and `load.py`; shows the cost as it grows; and prints the report and
the audit of the ledger. Exit status 0 means that all of it worked and that the ledger adds up.

    DEMO_SECONDS=40    how long the workloads run
    KEEP=1             stay up until Ctrl-C
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

from apportion.core.clock import SystemClock
from devices import (
    Devices,
    choose_devices,
    clean_environment,
    simulator_command,
    simulator_environment,
)
from processes import Child, ChildFailedError, Processes
from reckoning import differences
from telemetry import Telemetry

EXAMPLES: Final = Path(__file__).resolve().parent
APPORTION: Final = str(Path(sys.executable).with_name("apportion"))
PRICE_PER_HOUR: Final = "2.40"
START_SECONDS: Final = 40.0
SETTLE_SECONDS: Final = 35.0
PROGRESS_SECONDS: Final = 4.0
MAX_SECONDS: Final = 55.0
"""Longest run without KEEP, so that the demo ends within 90 seconds."""

Found = TypeVar("Found")


class DemoError(Exception):
    """The demo did not show what it is there to show."""


class Stop:
    """SIGINT and SIGTERM: the first ends the demo in order, the second at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Handle the signal."""
        if self.asked.is_set():
            sys.exit(128 + number)
        self.asked.set()


def agent_config(directory: Path, port: int, devices: Devices) -> str:
    """The agent's configuration for a demonstration: it settles each second, not each five."""
    keys = {
        "listen": f"127.0.0.1:{port}",
        "devices": "simulator" if devices.simulated else "nvml",
        "state_dir": directory / "state",
        "ring_dir": directory / "rings",
        "lock_dir": directory / "locks",
        "prices": directory / "prices.yaml",
        "node": "demo",
        "sample_period": "250ms",
        "tick_period": "1s",
        "lateness": "1s",
    }
    return "".join(f"{key}: {json.dumps(str(value))}\n" for key, value in keys.items())


def price_table(devices: Devices) -> str:
    """One price for each model of GPU: an estimate, so that there is something to multiply by."""
    row = """\
- device: {name}
  per_hour: "{price}"
  currency: USD
  covers: gpu
  basis: list-estimate
  source: demo
  as_of: {today}
"""
    today = datetime.fromtimestamp(SystemClock().realtime_ns() / 1e9, timezone.utc).date()
    return "".join(
        row.format(name=json.dumps(name), price=PRICE_PER_HOUR, today=today)
        for name in sorted(set(devices.names))
    )


class Demo:
    """One run of the demo."""

    def __init__(self, directory: Path, processes: Processes, seconds: float, stop: Stop) -> None:
        self._directory = directory
        self._processes = processes
        self._seconds = seconds
        self._stop = stop
        self._started = time.monotonic()
        self._devices = choose_devices()
        self._telemetry = Telemetry(f"http://127.0.0.1:{free_port()}")
        self._environment = {**clean_environment(), "APPORTION_RING_DIR": str(directory / "rings")}
        (directory / "rings").mkdir()

    def run(self) -> None:
        """Start all, watch, stop, and print what it cost.

        Raises:
            DemoError: something did not happen, or a command said that something is wrong.
            ChildFailedError: a process ended when it should not have.
        """
        self._announce()
        checkpoints = ["--directory", str(self._directory / "checkpoints")]
        trainer = self._start_example("train_gpt.py", self._devices.trainer, *checkpoints)
        server = self._start_example("serve_lm.py", self._devices.server)
        agent = self._start_agent(trainer, server)
        port = self._until("the server is ready", START_SECONDS, server, lambda: _port(server))
        load = self._start_load(port)
        self._name_pages()
        self._watch(load, (trainer, server, agent))
        load.stop()
        for child in (trainer, server):
            child.ask_to_end()
        for child in (load, trainer, server):
            child.stop()
            child.require_success()
        self._settle(agent)
        self._report()
        self._reckon(trainer)

    def _announce(self) -> None:
        names = ", ".join(self._devices.names)
        if self._devices.simulated:
            self._say(f"SIMULATED GPUs, because {self._devices.reason}")
            self._say(f"SIMULATED: {names}; they follow the workloads' CPU use")
        else:
            self._say(f"real GPUs ({self._devices.reason}): {names}")

    def _start_example(self, program: str, environment: dict[str, str], *options: str) -> Child:
        command = [sys.executable, str(EXAMPLES / program), *options]
        return self._processes.start(program, command, {**self._environment, **environment})

    def _start_agent(self, trainer: Child, server: Child) -> Child:
        environment = clean_environment()
        if self._devices.simulated:
            state = self._directory / "gpus"
            command = simulator_command(state, (trainer.pid, server.pid))
            simulator = self._processes.start("simulator", command, environment)
            environment |= self._until(
                "the simulator is ready",
                START_SECONDS,
                simulator,
                lambda: simulator_environment(simulator.lines()),
            )
        port = int(self._telemetry.url.rpartition(":")[2])
        config = self._directory / "apportion.yaml"
        config.write_text(agent_config(self._directory, port, self._devices))
        (self._directory / "prices.yaml").write_text(price_table(self._devices))
        command = [APPORTION, "agent", "--config", str(config)]
        agent = self._processes.start("agent", command, environment)
        self._until(
            "the agent is ready", START_SECONDS, agent, lambda: self._telemetry.ready() or None
        )
        return agent

    def _start_load(self, port: int) -> Child:
        command = [sys.executable, str(EXAMPLES / "load.py"), "--url", f"http://127.0.0.1:{port}"]
        command += ["--seconds", str(self._seconds), "--requests", "1000000000"]
        command += ["--output", str(self._directory / "load.json")]
        return self._processes.start("load", command, self._environment)

    def _name_pages(self) -> None:
        self._say("the trainer, the server and its load are running; look, while they do, at")
        for path in ("/metrics", "/healthz", "/readyz"):
            self._say(f"    {self._telemetry.url}{path}")
        if self._seconds > MAX_SECONDS:
            self._say("they stay up: Ctrl-C ends them and prints the report")

    def _watch(self, load: Child, others: tuple[Child, ...]) -> None:
        """Show the cost until the load has ended, or until a signal comes."""
        shown = time.monotonic()
        while load.running() and not self._stop.asked.wait(0.2):
            for child in others:
                child.require_running()
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown += PROGRESS_SECONDS
                self._show_cost()

    def _show_cost(self) -> None:
        cost = self._telemetry.cost()
        if cost is not None:
            parts = ", ".join(f"{name or 'no one'} {cost[name]:.6f}" for name in sorted(cost))
            self._say(f"metered so far: USD {sum(cost.values()):.6f} ({parts})")

    def _settle(self, agent: Child) -> None:
        """Wait until the time in which the workloads ran is charged."""
        ended = SystemClock().realtime_ns() / 1e9
        self._say("the workloads have ended; waiting until their time is settled")

        def settled() -> bool | None:
            until = self._telemetry.settled_until()
            return True if until is not None and until >= ended else None

        self._until("the time of the workloads is settled", SETTLE_SECONDS, agent, settled)
        self._say("their time is settled")

    def _report(self) -> None:
        for command in (["report"], ["audit"]):
            print(f"\n$ apportion {command[0]}", flush=True)
            self._ask(command)

    def _reckon(self, trainer: Child) -> None:
        """Compare the ledger with what the workloads say that they did."""
        answer = self._ask(["report", "--by", "workload,tenant", "--format", "json"], show=False)
        load: dict[str, Any] = json.loads((self._directory / "load.json").read_text())
        done: dict[str, Any] = json.loads(trainer.lines()[-1])
        found = differences(json.loads(answer), load, done)
        if found:
            raise DemoError("the ledger does not tell what was done: " + "; ".join(found))
        print(flush=True)
        self._say("the ledger's requests, steps and tokens are those that the workloads report")

    def _ask(self, command: list[str], *, show: bool = True) -> str:
        """Run a command on the ledger; what it wrote, where it is not shown."""
        ledger = str(self._directory / "state" / "ledger.db")
        done = subprocess.run(
            [APPORTION, *command, "--ledger", ledger],
            stdout=None if show else subprocess.PIPE,
            env=clean_environment(),
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DemoError(f"`apportion {command[0]}` ended with exit status {done.returncode}")
        return done.stdout or ""

    def _until(
        self, what: str, seconds: float, child: Child, look: Callable[[], Found | None]
    ) -> Found:
        """Look again and again until there is something, while `child` runs."""
        deadline = time.monotonic() + seconds
        while (found := look()) is None:
            child.require_running()
            if time.monotonic() > deadline:
                raise DemoError(f"it is not so after {seconds:.0f} seconds that {what}")
            time.sleep(0.1)
        return found

    def _say(self, text: str) -> None:
        print(f"[demo {time.monotonic() - self._started:5.1f} s] {text}", flush=True)


def _port(server: Child) -> int | None:
    """The port that the server printed when it was warm."""
    lines = server.lines()
    if not lines:
        return None
    port: int = json.loads(lines[0])["port"]
    return port


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def main() -> int:
    """Run the demo; the exit status."""
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    keep = os.environ.get("KEEP", "") not in {"", "0"}
    seconds = 1e6 if keep else min(float(os.environ.get("DEMO_SECONDS") or 40), MAX_SECONDS)
    with (
        tempfile.TemporaryDirectory(prefix="apportion-demo-") as directory,
        contextlib.closing(Processes(Path(directory))) as processes,
    ):
        try:
            Demo(Path(directory), processes, seconds, stop).run()
        except (DemoError, ChildFailedError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 130 if stop.asked.is_set() else 1
    return 130 if stop.asked.is_set() and not keep else 0


if __name__ == "__main__":
    sys.exit(main())
