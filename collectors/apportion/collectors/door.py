"""A door beside the agent: a process that is started, listened to, and replaced when it ends.

It is a process of its own, so that what strangers send or write is never read in the agent. Its
requests come by way of rings, as everybody's; here are its counts.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from apportion.collectors.child_process import ChildProcess
from apportion.collectors.collector import Batch
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NotYet
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND

PERIOD_NS: Final = 2 * NS_PER_SECOND
LONGEST_BACKOFF: Final = 30
"""Periods between two starts, at most; one at first."""
_END_NS: Final = 5 * NS_PER_SECOND
_BEGIN_S: Final = 10
"""So long a door may take until it listens: a Python with its imports on a busy machine."""
_MOST_LINE: Final = 1 << 16
_LOG: Final = logging.getLogger(__name__)
_FAULTS: Final = {
    "refused": "more services tell of requests than it takes; name yours in `service_devices`, "
    "they always have a place",
    "malformed": "requests come whose ids or times cannot be; their sender is told which",
    "broken": "exports come that cannot be read: a wrong port, encoding or size; their sender is "
    "told why",
}
"""Counts of a door that somebody should hear of when they begin."""

Counted = Mapping[str, tuple[str, Sequence[str]]]
"""By family, without `apportion_`: its label, and the counts of the door that are its values."""


class Door:
    """The process of one door, as a collector. Its `command` says what it counts."""

    def __init__(
        self,
        name: str,
        title: str,
        command: Sequence[str],
        counted: Counted,
        options: CollectorOptions,
        clock: Clock,
    ) -> None:
        self._name, self._title = name, title
        self._options, self._clock = options, clock
        self._command, self._counted = tuple(command), counted
        self._child: ChildProcess | None = None
        self._text = b""
        self._before: Counter[str] = Counter()
        """Of doors that have ended."""
        self._counts: Counter[str] = Counter()
        self._listening = False
        self._backoff = 1
        self._start_ns = self._begun_ns = 0

    @property
    def name(self) -> str:
        """See `Collector`."""
        return self._name

    @property
    def pid(self) -> int | None:
        """The door's process, None where there is none."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the door.

        Raises:
            CollectorError: it cannot be started.
        """
        try:
            self._child = ChildProcess(self._command, self._options.environment or os.environ)
        except OSError as error:
            raise CollectorError(
                f"the {self._title} door cannot be started: {error.strerror}"
            ) from error
        self._text, self._listening = b"", False
        self._begun_ns = self._clock.monotonic_ns()

    def collect(self) -> Batch:
        """What has arrived by now.

        Raises:
            NotYet: the door was started just now, and does not listen yet.
            CollectorError: it does not listen, or has ended; another one is started, later each
                time.
        """
        if self._child is None:
            if self._clock.monotonic_ns() < self._start_ns:
                raise CollectorError(f"the {self._title} door has ended and is started again soon")
            self.start()
        child = cast("ChildProcess", self._child)
        arrived, is_open = child.read()
        self._take(arrived)
        if not is_open:
            self._ended(child)
        if not self._listening:
            if self._clock.monotonic_ns() - self._begun_ns < _BEGIN_S * NS_PER_SECOND:
                raise NotYet(f"the {self._title} door has not said yet that it listens")
            raise CollectorError(f"the {self._title} door does not listen after {_BEGIN_S} s")
        self._backoff = 1
        total = self._before + self._counts
        return Batch(
            samples=tuple(
                Sample(family, total[value], ((label, value),))
                for family, (label, values) in self._counted.items()
                for value in values
            )
        )

    def close(self) -> None:
        """End the door: it takes no more, and its rings say that it has ended."""
        if self._child is not None:
            self._child.end(_END_NS)
            self._child = None

    def _take(self, arrived: bytes) -> None:
        *lines, self._text = (self._text + arrived).split(b"\n")
        self._text = self._text[-_MOST_LINE:]
        for line in lines:
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                self._heard(json.loads(line))

    def _heard(self, said: Any) -> None:
        if "listening" in said:
            self._listening = True
            _LOG.info("%s door: %s", self._title, _shown(said["listening"]))
        else:
            names = [name for _, values in self._counted.values() for name in values]
            counts = Counter({name: int(said["counts"].get(name, 0)) for name in names})
            for name in _FAULTS.keys() & counts.keys():
                if counts[name] and not self._counts[name]:
                    _LOG.warning("%s door: %s", self._title, _FAULTS[name])
            self._counts = counts

    def _ended(self, child: ChildProcess) -> None:
        how = child.ending(NS_PER_SECOND) or "closed its output"
        words = child.last_words()
        child.abandon()
        self._child = None
        self._before, self._counts = self._before + self._counts, Counter()
        self._start_ns = self._clock.monotonic_ns() + self._backoff * PERIOD_NS
        self._backoff = min(2 * self._backoff, LONGEST_BACKOFF)
        raise CollectorError(f"the {self._title} door {how}" + (f": {words}" if words else ""))


def door_command(name: str, options: CollectorOptions, *more: str) -> list[str]:
    """How the door called `name` is started, with what all doors are told."""
    command = [sys.executable, "-m", "apportion.doors", name, "--counts", *more]
    if options.ring_dir is not None:
        command += ["--ring-dir", str(options.ring_dir)]
    for service in options.service_devices:
        command += ["--devices", service]
    for service, model in options.service_models.items():
        command += ["--model", f"{service}={model}"]
    if options.id_key_file is not None:
        command += ["--id-key-file", str(options.id_key_file)]
    if options.hashed_ids:
        command += ["--hashed-ids", ",".join(options.hashed_ids)]
    return command


def _shown(addresses: Any) -> str:
    return ", ".join(f"{name} on {address}" for name, address in sorted(addresses.items()))
