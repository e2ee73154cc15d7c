"""What comes through any door: spans taken once, within bounds, and counted."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from apportion.doors.llm_span import llm_spans
from apportion.doors.span_rings import SpanRings
from apportion.doors.told_request import Malformed

MOST_PER_SECOND: Final = 10_000
"""Requests: an agent reads its rings many times a second, and a ring holds three times as many."""
FUTURE_NS: Final = 1_000_000_000
"""How far another host's clock may be ahead."""
REMEMBERED: Final = 1 << 16
"""Spans: an exporter that saw no answer sends the same again."""


def _realtime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


class Busy(Exception):
    """More arrives than can be taken now: nothing of it was; send it again in `retry_s`."""

    retry_s = 1


class Answer(NamedTuple):
    """How many spans were refused, and why in a sentence; empty where none was."""

    rejected: int
    message: str


class Door:
    """Takes exports from several threads. `counts` are spans by what became of them."""

    def __init__(
        self,
        rings: SpanRings,
        tenant_attribute: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        realtime_ns: Callable[[], int] = _realtime_ns,
    ) -> None:
        self._rings, self._tenant_attribute = rings, tenant_attribute
        self._monotonic, self._realtime_ns = monotonic, realtime_ns
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._second, self._taken = 0, 0

    @property
    def counts(self) -> Mapping[str, int]:
        """Spans so far: accepted, repeated, malformed, refused, ignored; exports: busy, broken."""
        with self._lock:
            return dict(self._counts)

    def broken(self) -> None:
        """An export that cannot be read arrived."""
        with self._lock:
            self._counts["broken"] += 1

    def busy(self) -> None:
        """An export was sent away before anybody read it."""
        with self._lock:
            self._counts["busy"] += 1

    def take(self, message: ExportTraceServiceRequest) -> Answer:
        """All requests of one export.

        Raises:
            Busy: too many of late.
            OSError: no ring can be written; nothing of it was taken.
        """
        found = list(llm_spans(message, self._tenant_attribute))
        whole = sum(
            len(scope.spans) for group in message.resource_spans for scope in group.scope_spans
        )
        with self._lock:
            self._make_room(len(found))
            self._counts["ignored"] += whole - len(found)
            refused: Counter[str] = Counter()
            latest_ns = self._realtime_ns() + FUTURE_NS
            for span in found:
                if isinstance(span, Malformed):
                    self._counts["malformed"] += 1
                    refused[span.reason] += 1
                elif span.request.end_ns > latest_ns:
                    self._counts["malformed"] += 1
                    refused["it ends in the future"] += 1
                elif span.key in self._seen:
                    self._counts["repeated"] += 1
                elif self._rings.write(span.request):
                    self._counts["accepted"] += 1
                    self._seen[span.key] = None
                    if len(self._seen) > REMEMBERED:
                        self._seen.popitem(last=False)
                else:
                    self._counts["refused"] += 1
                    refused["there are too many services"] += 1
        reasons = "; ".join(f"{reason}: {count}" for reason, count in sorted(refused.items()))
        return Answer(sum(refused.values()), reasons)

    def _make_room(self, count: int) -> None:
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._taken = second, 0
        # One export larger than the bound is taken by itself: it would never fit else.
        if self._taken and self._taken + count > MOST_PER_SECOND:
            self._counts["busy"] += 1
            raise Busy
        self._taken += count
