"""The run group: order of start and stop, failures, deadlines, and real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

import pytest

from apportion.agent.service import Initializer, Named, RunGroup, Runner, Shutdowner
from apportion.core.clock import SystemClock
from apportion.core.errors import ConfigError

SECOND_NS = 10**9


class Service:
    """Writes what happens to it into a common list."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def start(self) -> None:
        self.log.append(f"start {self.name}")

    def run(self, stop: threading.Event) -> None:
        stop.wait()
        self.log.append(f"end {self.name}")

    def shutdown(self, timeout_ns: int) -> None:
        assert timeout_ns >= 0
        self.log.append(f"shutdown {self.name}")


class Announcing(Service):
    """Says when it has started."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__(name, log)
        self.started = threading.Event()

    def start(self) -> None:
        super().start()
        self.started.set()


class OnlyNamed:
    """A service without any ability."""

    name = "idle"


class Failing(Service):
    """Starts, and then fails by itself."""

    def run(self, stop: threading.Event) -> None:
        del stop
        raise ConfigError("the wire is cut")


class Returning(Service):
    """Ends although nobody asked it to."""

    def run(self, stop: threading.Event) -> None:
        del stop


class Refusing(Service):
    """Cannot be started."""

    def start(self) -> None:
        super().start()
        raise ConfigError("no such thing")


class Stuck(Service):
    """Does not stop when it is told to."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__(name, log)
        self.released = threading.Event()

    def run(self, stop: threading.Event) -> None:
        stop.wait()
        self.released.wait()


class Unclosable(Service):
    """Raises when it is let go of."""

    def shutdown(self, timeout_ns: int) -> None:
        super().shutdown(timeout_ns)
        raise RuntimeError("already gone")


def _group(services: Sequence[Named], drain_ns: int = 20 * SECOND_NS) -> RunGroup:
    return RunGroup(services, SystemClock(), drain_ns=drain_ns)


def test_the_protocols_are_recognised_by_what_a_service_can_do() -> None:
    """A service needs only a name; each ability is separate."""
    service = Service("a", [])
    assert isinstance(service, Named)
    assert isinstance(service, Initializer)
    assert isinstance(service, Runner)
    assert isinstance(service, Shutdowner)
    assert isinstance(OnlyNamed(), Named)
    assert not isinstance(OnlyNamed(), Runner)


def test_downstream_starts_first_and_stops_last() -> None:
    """Data in flight always has somewhere to go: each drains before what it feeds goes down."""
    log: list[str] = []
    last = Announcing("pipeline", log)
    group = _group([Service("ledger", log), OnlyNamed(), last])

    def stop() -> None:
        last.started.wait()
        group.stop()

    threading.Thread(target=stop, daemon=True).start()
    assert group.run(on_stopping=lambda: log.append("stopping")) == 0
    assert log == [
        *("start ledger", "start pipeline", "stopping"),
        *("end pipeline", "shutdown pipeline", "end ledger", "shutdown ledger"),
    ]


@pytest.mark.parametrize("kind", [Failing, Returning])
def test_one_that_ends_by_itself_takes_all_down(kind: type[Service]) -> None:
    """A dead part is never left unnoticed behind a live port; the others still drain."""
    log: list[str] = []
    assert _group([Service("ledger", log), kind("reader", log)]).run() == 1
    assert log[-3:] == ["shutdown reader", "end ledger", "shutdown ledger"]


def test_a_refused_start_shuts_down_what_was_up() -> None:
    """The error comes out as it is; what follows is never started."""
    log: list[str] = []
    group = _group([Service("ledger", log), Refusing("http", log), Service("reader", log)])
    with pytest.raises(ConfigError, match="no such thing"):
        group.run()
    assert log == [
        *("start ledger", "start http", "shutdown http", "end ledger", "shutdown ledger"),
    ]


def test_the_drain_has_a_deadline() -> None:
    """A stuck part costs the drain time and an exit status, not the others' shutdown."""
    log: list[str] = []
    stuck = Stuck("driver", log)
    group = _group([Service("ledger", log), stuck], drain_ns=SECOND_NS // 20)
    threading.Timer(0.05, group.stop).start()
    assert group.run() == 1
    assert log[-3:] == ["shutdown driver", "end ledger", "shutdown ledger"]
    stuck.released.set()


def test_a_failing_shutdown_does_not_keep_the_others_open() -> None:
    """It is logged and seen in the exit status."""
    log: list[str] = []
    group = _group([Service("ledger", log), Unclosable("reader", log)])
    threading.Timer(0.05, group.stop).start()
    assert group.run() == 1
    assert log[-1] == "shutdown ledger"


PROGRAM = """
import sys, threading
from apportion.agent.service import RunGroup
from apportion.core.clock import SystemClock

class Service:
    name = "worker"
    def run(self, stop):
        print("running", flush=True)
        stop.wait()
        print("draining", flush=True)
        if sys.argv[1] == "stuck":
            threading.Event().wait()
    def shutdown(self, timeout_ns):
        print("closed", flush=True)

sys.exit(RunGroup([Service()], SystemClock(), drain_ns=60 * 10**9).run())
"""

HANG = """
import ctypes
def hang():
    print("hanging", flush=True)
    libc = ctypes.CDLL(None)
    while True:
        libc.sleep(3600)

class Service:"""


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_graceful(number: signal.Signals) -> None:
    """A real signal to a real process: it drains, closes and exits with 0."""
    command = [sys.executable, "-c", PROGRAM, "prompt"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert _line(process.stdout) == "running"
        process.send_signal(number)
        assert _line(process.stdout) == "draining"
        assert _line(process.stdout) == "closed"
        assert process.wait(30) == 0


def test_the_second_signal_forces() -> None:
    """A drain that hangs is cut short, and the exit status says which signal did it."""
    command = [sys.executable, "-c", PROGRAM, "stuck"]
    begun = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert _line(process.stdout) == "running"
        process.send_signal(signal.SIGTERM)
        assert _line(process.stdout) == "draining"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert "again" in _line(process.stderr)
    assert time.monotonic() - begun < 60


def test_a_signal_is_seen_whatever_the_main_thread_does() -> None:
    """A main thread that is stuck in a C call does not keep the second signal from working."""
    program = PROGRAM.replace(
        "RunGroup([Service()], SystemClock(), drain_ns=60 * 10**9).run()",
        "RunGroup([Service()], SystemClock(), drain_ns=60 * 10**9).run(on_stopping=hang)",
    ).replace("class Service:", HANG)
    command = [sys.executable, "-c", program, "prompt"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert _line(process.stdout) == "running"
        process.send_signal(signal.SIGINT)
        assert _line(process.stdout) == "hanging"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM


def test_handlers_are_given_back() -> None:
    """After a run the process handles signals as it did before."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    group = _group([Service("a", [])])
    threading.Timer(0.05, group.stop).start()
    assert group.run() == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    """A group in a test or a notebook runs without taking the process's handlers."""
    before = signal.getsignal(signal.SIGTERM)
    group = _group([Service("a", [])])
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(group.run()))
    thread.start()
    group.stop()
    thread.join(20)
    assert statuses == [0]
    assert signal.getsignal(signal.SIGTERM) is before
