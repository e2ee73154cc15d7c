"""The OTLP door beside the agent: started, listened to, replaced when it ends.

It is a process of its own (`apportion otlp`), so that what strangers send is never read in the
agent. Its requests come by way of rings, as everybody's; here are its counts.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final, cast

from apportion.collectors.child_process import ChildProcess
from apportion.collectors.collector import Batch
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NoData
from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_otlp_spans_total",
        "counter",
        "spans",
        ("outcome",),
        "OpenTelemetry spans that arrived: accepted as requests, repeated, malformed, refused "
        "(too many services), ignored (no requests).",
        "otlp",
    ),
    Family(
        "apportion_otlp_exports_refused_total",
        "counter",
        "exports",
        ("reason",),
        "Exports that were not taken: busy (too much at once), broken (cannot be read).",
        "otlp",
    ),
)
PERIOD_NS: Final = 2 * NS_PER_SECOND
LONGEST_BACKOFF: Final = 30
"""Periods between two starts, at most; one at first."""
SPANS: Final = ("accepted", "repeated", "malformed", "refused", "ignored")
EXPORTS: Final = ("busy", "broken")
_END_NS: Final = 5 * NS_PER_SECOND
_MOST_LINE: Final = 1 << 16
_LOG: Final = logging.getLogger(__name__)


class Otlp:
    """The `otlp` collector. `command` replaces the door, for tests of what a broken one does."""

    def __init__(
        self, options: CollectorOptions, clock: Clock, *, command: Sequence[str] | None = None
    ) -> None:
        self._options, self._clock = options, clock
        self._command = tuple(command or _command(options))
        self._child: ChildProcess | None = None
        self._text = b""
        self._before: Counter[str] = Counter()
        """Of doors that have ended."""
        self._counts: Counter[str] = Counter()
        self._listening = False
        self._backoff = 1
        self._start_ns = 0

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "otlp"

    @property
    def pid(self) -> int | None:
        """The door's process, None where there is none."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the door.

        Raises:
            NoData: no address is configured.
            CollectorError: it cannot be started, or is not installed.
        """
        if self._options.otlp_http is None and self._options.otlp_grpc is None:
            raise NoData("no address is named: set `otlp_http` or `otlp_grpc`")
        if not _is_installed():
            raise CollectorError("OTLP is not installed: pip install 'apportion[otlp]'")
        try:
            self._child = ChildProcess(self._command, self._options.environment or os.environ)
        except OSError as error:
            raise CollectorError(f"the OTLP door cannot be started: {error.strerror}") from error
        self._text, self._listening = b"", False

    def collect(self) -> Batch:
        """What has arrived by now.

        Raises:
            NoData: no address is configured.
            CollectorError: the door does not listen yet, or has ended; another one is started,
                later each time.
        """
        if self._child is None:
            if self._clock.monotonic_ns() < self._start_ns:
                raise CollectorError("the OTLP door has ended and is started again soon")
            self.start()
        child = cast("ChildProcess", self._child)
        arrived, is_open = child.read()
        self._take(arrived)
        if not is_open:
            self._ended(child)
        if not self._listening:
            raise CollectorError("the OTLP door has not said yet that it listens")
        self._backoff = 1
        total = self._before + self._counts
        return Batch(
            samples=(
                *(Sample("otlp_spans_total", total[name], (("outcome", name),)) for name in SPANS),
                *(
                    Sample("otlp_exports_refused_total", total[name], (("reason", name),))
                    for name in EXPORTS
                ),
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
            _LOG.info("OTLP door: %s", _shown(said["listening"]))
        else:
            found = {name: int(said["counts"].get(name, 0)) for name in SPANS + EXPORTS}
            self._counts = Counter(found)

    def _ended(self, child: ChildProcess) -> None:
        how = child.ending(NS_PER_SECOND) or "closed its output"
        words = child.last_words()
        child.abandon()
        self._child = None
        self._before, self._counts = self._before + self._counts, Counter()
        self._start_ns = self._clock.monotonic_ns() + self._backoff * PERIOD_NS
        self._backoff = min(2 * self._backoff, LONGEST_BACKOFF)
        raise CollectorError(f"the OTLP door {how}" + (f": {words}" if words else ""))


def _is_installed() -> bool:
    try:
        return all(map(find_spec, ("google.rpc", "grpc", "opentelemetry.proto")))
    except ModuleNotFoundError:  # of a package around one of them
        return False


def _command(options: CollectorOptions) -> Sequence[str]:
    command = [sys.executable, "-m", "apportion.doors", "--counts"]
    if options.ring_dir is not None:
        command += ["--ring-dir", str(options.ring_dir)]
    for flag, address in (("--http", options.otlp_http), ("--grpc", options.otlp_grpc)):
        command += [] if address is None else [flag, address]
    for service in options.otlp_devices:
        command += ["--devices", service]
    if options.otlp_tenant_attribute is not None:
        command += ["--tenant-attribute", options.otlp_tenant_attribute]
    return command


def _shown(addresses: Any) -> str:
    return ", ".join(f"{name} on {address}" for name, address in sorted(addresses.items()))


@BUILT_IN.register("otlp", default=False, devices=False, period_ns=PERIOD_NS)
def make(options: CollectorOptions, clock: Clock) -> Otlp:
    """The registered factory."""
    return Otlp(options, clock)
