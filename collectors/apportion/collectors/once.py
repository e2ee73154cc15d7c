"""One collector alone, once: what `apportion once --collector NAME` prints."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from apportion.collectors.collector import Batch, DeviceFailure, DeviceSources
from apportion.collectors.nvml_process import NvmlProcess
from apportion.collectors.observed import Observed
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import built_in
from apportion.core.clock import Clock, SystemClock
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_SECOND

_LOOK_NS: Final = NS_PER_SECOND // 20

# The result says what went wrong: where nobody has set up logging, Python would print it besides.
logging.getLogger("apportion.collectors").addHandler(logging.NullHandler())


def collect_once(
    name: str,
    options: Mapping[str, str] | CollectorOptions,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Start the collector, wait for its first readings, close it; the result is JSON-able.

    What is unsupported is absent. Where nothing came, `success` is false and `error` says why:
    at once for a source that is not there, else when its deadline to connect has passed.

    Raises:
        ConfigError: there is no such collector or option.
    """
    chosen = options if isinstance(options, CollectorOptions) else CollectorOptions.parse(options)
    clock = clock or SystemClock()
    collector = built_in().get(name).factory(chosen, clock)
    observed = Observed(collector, clock)
    observed.start()
    try:
        batch = _first(observed, chosen, clock)
    finally:
        observed.close()
    status = observed.status
    result: dict[str, Any] = {
        "collector": name,
        "success": status.success and _told(batch),
        "duration_ns": status.duration_ns,
        "error": status.error,
        "absent": status.absent,
        "devices": [_plain(info) for info in batch.devices],
        "sources": [_plain(sources) for sources in batch.sources],
        "readings": [_plain(reading) for reading in batch.readings],
        "failures": [_plain(failure) for failure in batch.failures],
        "samples": [
            {"name": name, "value": value, "labels": dict(labels)}
            for name, value, labels in batch.samples or ()
        ],
    }
    if isinstance(collector, NvmlProcess):
        result["state"] = collector.state.value
        result["error"] = result["error"] or collector.reason or None
    return result


def _first(observed: Observed, options: CollectorOptions, clock: Clock) -> Batch:
    """The first batch that tells something, after one period; the last one where none does."""
    never = threading.Event()
    deadline_ns = clock.monotonic_ns() + options.period_ns + options.connect_deadline_ns
    clock.wait(never, options.period_ns)
    while True:
        batch = observed.collect()
        lost = observed.status.error is not None
        if _told(batch):
            break
        if lost or clock.monotonic_ns() >= deadline_ns:
            return batch
        clock.wait(never, _LOOK_NS)
    while _is_unfinished(observed) and clock.monotonic_ns() < deadline_ns:
        clock.wait(never, _LOOK_NS)
        batch = _joined(batch, observed.collect())
    return batch


def _told(batch: Batch) -> bool:
    return bool(batch.readings) or batch.samples is not None


def _is_unfinished(observed: Observed) -> bool:
    """Devices come one by one from the NVML child; others answer whole."""
    collector = observed.collector
    return isinstance(collector, NvmlProcess) and collector.in_sweep


def _joined(first: Batch, second: Batch) -> Batch:
    return Batch(
        first.readings + second.readings,
        first.devices + second.devices,
        first.failures + second.failures,
        first.sources + second.sources,
        samples=second.samples or first.samples,
        allocations=second.allocations or first.allocations,
        ended=first.ended + second.ended,
    )


def _plain(record: Reading | DeviceInfo | DeviceFailure | DeviceSources) -> dict[str, Any]:
    """A record as JSON values, a fraction as text, without what it cannot tell."""
    plain: dict[str, Any] = json.loads(
        json.dumps(asdict(record), default=str), object_hook=_without_unknown
    )
    return plain


def _without_unknown(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value is not None and value != {}}
