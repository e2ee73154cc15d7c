"""The caller's wrapper that turns a collector's failure into a fact instead of a crash."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from apportion.collectors.collector import Batch, Collector, FailureKind
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NoData, NotYet
from apportion.core.units import MonotonicNs, Nanoseconds

_LOG: Final = logging.getLogger(__name__)
_NO_TIME: Final = Nanoseconds(0)


@dataclass(frozen=True, slots=True)
class CollectorStatus:
    """How the last call of a collector went. `error` is its sentence, None after a success.

    `absent` tells a source that is not on this machine from one that failed; `kind` is why, in
    one word, for devices that cannot be read because of it.
    `last_success_ns` is host monotonic, None before the first success.
    """

    name: str
    success: bool = False
    duration_ns: Nanoseconds = _NO_TIME
    last_success_ns: MonotonicNs | None = None
    error: str | None = None
    absent: bool = False
    kind: FailureKind = FailureKind.SILENT
    consecutive_failures: int = 0


class Observed:
    """A collector whose calls never raise: they are timed, counted and explained.

    `required`: somebody has asked for this source, so that to be absent is to fail.
    """

    def __init__(self, collector: Collector, clock: Clock, *, required: bool = False) -> None:
        self._collector = collector
        self._clock = clock
        self._required = required
        self._status = CollectorStatus(collector.name)
        self._is_starting = False

    @property
    def name(self) -> str:
        """The collector's name."""
        return self._collector.name

    @property
    def collector(self) -> Collector:
        """What is wrapped."""
        return self._collector

    @property
    def status(self) -> CollectorStatus:
        """An immutable snapshot, safe to read from another thread."""
        return self._status

    def start(self) -> None:
        """Open the source; a failure is in `status`, and `collect` tries again."""
        self._measure(self._start)

    def collect(self) -> Batch:
        """What is new; where the collection failed, what is known all the same."""
        return self._measure(self._collector.collect)

    def rest(self, reason: str) -> None:
        """Let go of the source for this reason, until `start`."""
        self.close()
        released = CollectorError(reason, kind=FailureKind.RELEASED)
        self._failed(released, self._clock.monotonic_ns())

    def close(self) -> None:
        """Let go of the source; a failure to do so is logged."""
        try:
            self._collector.close()
        except (CollectorError, OSError) as error:
            _LOG.warning("collector %s could not be closed: %s", self.name, error)

    def _start(self) -> Batch:
        self._collector.start()
        return Batch()

    def _measure(self, call: Callable[[], Batch]) -> Batch:
        begun_ns = self._clock.monotonic_ns()
        try:
            batch = call()
        except Exception as error:  # noqa: BLE001 - one source must never take the agent down
            self._failed(error, begun_ns)
            known = error.samples if isinstance(error, CollectorError) else ()
            return Batch(samples=known or None)
        now_ns = self._clock.monotonic_ns()
        if self._status.error is not None and not self._is_starting:
            _LOG.info("collector %s works again", self.name)
        self._status = CollectorStatus(
            self.name,
            success=True,
            duration_ns=Nanoseconds(now_ns - begun_ns),
            last_success_ns=now_ns,
        )
        return batch

    def _failed(self, error: Exception, begun_ns: int) -> None:
        """Keep the failure; say it once, not at every period."""
        before = self._status
        expected = isinstance(error, (CollectorError, OSError))
        sentence = str(error) if expected else f"{type(error).__name__}: {error}"
        absent = isinstance(error, NoData) and not self._required
        kind = error.kind if isinstance(error, CollectorError) else None
        self._status = replace(
            before,
            success=False,
            duration_ns=Nanoseconds(self._clock.monotonic_ns() - begun_ns),
            error=sentence,
            absent=absent,
            kind=FailureKind.SILENT if kind is None else FailureKind(kind),
            consecutive_failures=before.consecutive_failures + 1,
        )
        self._is_starting = isinstance(error, NotYet)
        if sentence != before.error:
            quiet = absent or self._is_starting
            _LOG.log(
                logging.DEBUG if quiet else logging.WARNING,
                "collector %s failed: %s",
                self.name,
                sentence,
                exc_info=None if expected else error,
            )
