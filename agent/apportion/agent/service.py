"""Lifecycle: four small protocols, and the group that starts, watches and stops what has them.

A service has a name and any of the three abilities. `start` opens what it needs and returns
soon; `run` works until it is told to stop, in a thread of its own; `shutdown` lets go, and is
called once for each service whose `start` was called, however it went.

Services are given downstream first (ledger, pipeline, ingest, collectors): each starts after
what it hands its data to, and is stopped, drained and shut down before it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, Protocol, runtime_checkable

from apportion.core.clock import Clock
from apportion.core.errors import ApportionError

_LOG: Final = logging.getLogger(__name__)
_WATCH_NS: Final = 3_600_000_000_000
"""How long one wait for a stop lasts; a signal or a failure ends it at once."""
_GRACE_NS: Final = 500_000_000
"""What each service gets although another one has used up the drain time."""
_BY_SIGNAL: Final = 128
"""Exit statuses above it say which signal ended a process, as shells show it."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@runtime_checkable
class Named(Protocol):
    """Every service: the name that the log and errors use."""

    @property
    def name(self) -> str:
        """A short word."""
        ...


@runtime_checkable
class Initializer(Protocol):
    """A service that opens something before it works."""

    def start(self) -> None:
        """Open it. An `ApportionError` is a clear refusal; the whole group then goes down."""
        ...


@runtime_checkable
class Runner(Protocol):
    """A service that works in a thread of its own."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then finish what is at hand and return.

        Returning or raising before that is a failure: the group goes down.
        """
        ...


@runtime_checkable
class Shutdowner(Protocol):
    """A service that has something to let go of."""

    def shutdown(self, timeout_ns: int) -> None:
        """Flush and close within `timeout_ns`. Harmless where `start` failed half way."""
        ...


class RunGroup:
    """Runs services until a signal, a failure or `stop`, and brings them down in order."""

    def __init__(self, services: Sequence[Named], clock: Clock, *, drain_ns: int) -> None:
        """`services`: downstream first. `drain_ns`: how long all of the stopping may take."""
        self._services = tuple(services)
        self._clock = clock
        self._drain_ns = drain_ns
        self._ending = threading.Event()
        self._failed = False
        self._running: list[_Running] = []

    def stop(self) -> None:
        """Begin to go down gracefully; from any thread."""
        self._ending.set()

    def run(self, *, on_stopping: Callable[[], None] = lambda: None) -> int:
        """Start everything, wait, stop everything. Call it from the main thread.

        The first SIGTERM or SIGINT stops gracefully; a second one ends the process at once with
        status 128 + its number, whatever any thread is stuck in. `on_stopping` is called when
        the stop begins.

        Returns:
            0 after a graceful stop, 1 where a service failed or did not stop in time.

        Raises:
            ApportionError: a service could not start; those before it were shut down.
        """
        with _signals(self._ending):
            try:
                for service in self._services:
                    if self._ending.is_set():
                        break
                    self._start(service)
                while not self._clock.wait(self._ending, _WATCH_NS):
                    pass
            finally:
                on_stopping()
                self._stop_all()
        return 1 if self._failed else 0

    def _start(self, service: Named) -> None:
        running = _Running(service)
        # Known before it starts: what fails half way is shut down like the rest.
        self._running.append(running)
        if isinstance(service, Initializer):
            service.start()
        if isinstance(service, Runner):
            running.launch(service, self._service_ended)
        _LOG.debug("%s started", service.name)

    def _service_ended(self, name: str, error: BaseException | None) -> None:
        """A service's thread returned or raised although nobody had stopped it."""
        self._failed = True
        if error is None:
            _LOG.error("%s ended by itself; the agent stops", name)
        elif isinstance(error, ApportionError):
            _LOG.error("%s failed, the agent stops: %s", name, error)
        else:
            _LOG.error("%s failed, the agent stops", name, exc_info=error)
        self._ending.set()

    def _stop_all(self) -> None:
        deadline_ns = self._clock.monotonic_ns() + self._drain_ns
        while self._running:
            running = self._running.pop()
            left_ns = max(_GRACE_NS, deadline_ns - self._clock.monotonic_ns())
            if not running.join(left_ns):
                self._failed = True
                _LOG.error("%s did not stop within the drain time; going on", running.name)
            left_ns = max(_GRACE_NS, deadline_ns - self._clock.monotonic_ns())
            try:
                running.shutdown(left_ns)
            except Exception:  # noqa: BLE001 - one failure must not keep the others open
                self._failed = True
                _LOG.exception("%s could not be shut down", running.name)


class _Running:
    """One started service and its thread."""

    def __init__(self, service: Named) -> None:
        self.name = service.name
        self._service = service
        self._stop = threading.Event()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def launch(self, runner: Runner, ended: Callable[[str, BaseException | None], None]) -> None:
        def body() -> None:
            error: BaseException | None = None
            try:
                runner.run(self._stop)
            except BaseException as failure:  # noqa: BLE001 - a dead thread must be noticed
                error = failure
            if error is not None or not self._stop.is_set():
                ended(self.name, error)
            self._done.set()

        # A daemon thread: one that is stuck in a driver cannot keep the process from ending.
        self._thread = threading.Thread(target=body, name=self.name, daemon=True)
        self._thread.start()

    def join(self, timeout_ns: int) -> bool:
        """Tell it to stop and wait for its thread; False where it did not return in time."""
        self._stop.set()
        return self._thread is None or self._done.wait(timeout_ns / 1e9)

    def shutdown(self, timeout_ns: int) -> None:
        if isinstance(self._service, Shutdowner):
            self._service.shutdown(timeout_ns)


@contextmanager
def _signals(ending: threading.Event) -> Generator[None, None, None]:
    """The first signal sets `ending`, the second ends the process.

    Python runs a handler in the main thread, between two instructions: a signal that comes just
    before that thread blocks would wait for as long as it does, and a handler that takes a lock
    which the thread holds would never return. So handlers do nothing here; the interpreter also
    writes the signal's number into a pipe at once, and a thread of its own acts on that.

    Outside the main thread Python lets nobody handle signals; the group then does not either.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_obey, args=(reading, ending), name="signals", daemon=True)
    watcher.start()
    before_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _left_to_watcher) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _left_to_watcher(number: int, frame: FrameType | None) -> None:
    """Keep the signal's default action from happening."""
    del number, frame


def _obey(reading: int, ending: threading.Event) -> None:
    """Act on the numbers of signals that come through the pipe, until it is closed."""
    while received := os.read(reading, 1):
        number = received[0]
        if number not in SIGNALS:
            continue
        name = signal.Signals(number).name
        if ending.is_set():
            os.write(2, f"{name} again: ending at once\n".encode())
            os._exit(_BY_SIGNAL + number)
        _LOG.info("%s: stopping; once more ends at once", name)
        ending.set()
