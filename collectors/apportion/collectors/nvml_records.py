"""The records that a message of the NVML child is made of: to JSON values, and back with checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from apportion.collectors.collector import DeviceFailure, DeviceSources, FailureKind
from apportion.collectors.mig_shares import REST
from apportion.collectors.nvml_messages import SlowFacts
from apportion.collectors.nvml_parts import SHARE
from apportion.collectors.nvml_telemetry import KEYS
from apportion.collectors.schema import (
    Check,
    as_flag,
    as_list,
    checked,
    list_of,
    one_line,
    one_of,
    real,
    text,
    whole,
)
from apportion.core.reading import DeviceInfo, ProcessReading, Reading
from apportion.core.sample import Sample

LONGEST_REASON: Final = 2_000
Record = Reading | DeviceInfo | DeviceFailure | DeviceSources | SlowFacts


def _process(value: object) -> ProcessReading:
    items = as_list(value, 3)
    if len(items) != 3 or items[0] is None:
        raise ValueError("a process is a list of pid, memory and share")
    told = [
        None if item is None else check(item) for item, check in zip(items, _PROCESS, strict=True)
    ]
    return ProcessReading(*cast("Any", told))


def samples_of(value: object) -> tuple[Sample, ...]:
    """Places in `KEYS`, each followed by a value: both ends know the names and labels."""
    items = as_list(value, 2 * len(KEYS))
    if len(items) % 2:
        raise ValueError("samples are a list of places and values in turn")
    samples: list[Sample] = []
    for item, number in zip(items[::2], items[1::2], strict=True):
        place = cast("int", _PLACE(item))
        name, labels = KEYS[place]
        samples.append(Sample(name, cast("float", _VALUE(number)), labels))
    return tuple(samples)


COUNT: Final = whole(2**63 - 1)
INDEX: Final = whole(65_535)
_RATIO: Final = real(0, 1)
_VALUE: Final = real(-(2.0**64), 2.0**64)
_PLACE: Final = whole(len(KEYS) - 1)
_PLACES: Final = {key: place for place, key in enumerate(KEYS)}
NAME: Final = text(256)
SENTENCE: Final = text(LONGEST_REASON)
_PROCESS: Final = (whole(2**31 - 1), COUNT, _RATIO)


def _kind(value: object) -> FailureKind:
    return FailureKind(_KIND(value))


_KIND: Final = one_of(*(kind.value for kind in FailureKind))
_ENERGY: Final = ("energy_counter", "power_integrated")


class _Record(NamedTuple):
    """What a record's object may hold and must hold."""

    table: dict[str, Check]
    needed: tuple[str, ...]


# The CPU's own fields and the container's share are missing on purpose: NVML has neither. A
# reading's processes come with what is read rarely.
_RECORDS: Final[dict[type, _Record]] = {
    Reading: _Record(
        {
            "device": NAME,
            "time_ns": COUNT,
            "energy_mj": COUNT,
            "energy_source": one_of(*_ENERGY, *(f"{source}{SHARE}" for source in _ENERGY)),
            "power_mw": whole(100_000_000),
            "utilization_ratio": _RATIO,
            "activity_source": one_of("gpm", "utilizationsamples_of", "utilization", REST),
            "memory_used_bytes": COUNT,
            "memory_total_bytes": COUNT,
            "memory_utilization_ratio": _RATIO,
            "temperature_celsius": real(-273, 1_000),
            "sm_clock_hz": COUNT,
            "memory_clock_hz": COUNT,
            "pcie_tx_bytes": COUNT,
            "pcie_rx_bytes": COUNT,
            "nvlink_tx_bytes": COUNT,
            "nvlink_rx_bytes": COUNT,
            "samples": samples_of,
        },
        ("device", "time_ns"),
    ),
    DeviceInfo: _Record(
        {
            "device": NAME,
            "name": NAME,
            "index": INDEX,
            "source": one_of("nvml"),
            "simulated": as_flag,
            "driver_version": NAME,
            "memory_total_bytes": COUNT,
            "power_limit_mw": COUNT,
        },
        ("device", "name", "index", "source"),
    ),
    DeviceFailure: _Record(
        {"device": NAME, "index": INDEX, "reason": SENTENCE, "kind": _kind},
        ("index", "reason", "kind"),
    ),
    SlowFacts: _Record(
        {"device": NAME, "processes": list_of(_process, 4_096), "samples": samples_of},
        ("device",),
    ),
    DeviceSources: _Record(
        {
            "device": NAME,
            "energy_source": NAME,
            "power_source": NAME,
            "activity_source": NAME,
            "unsupported": list_of(NAME, 64),
        },
        ("device",),
    ),
}


def wire(samples: Sequence[Sample]) -> list[float]:
    """Samples as `samples_of` reads them; a value that is no number is left out."""
    wire: list[float] = []
    for name, value, labels in samples:
        if math.isfinite(value):
            wire += (_PLACES[name, labels], value)
    return wire


def flat(record: Record) -> dict[str, object]:
    """What the record tells, without impossible values; a process becomes a list of three."""
    known = _RECORDS[type(record)]
    flat: dict[str, object] = {}
    for name, check in known.table.items():
        value: object = getattr(record, name)
        if value is None:
            continue
        match name:
            case "processes":
                rows = cast("tuple[ProcessReading, ...]", value)
                value = [[row.pid, row.memory_bytes, row.sm_ratio] for row in rows]
            case "samples":
                if value:
                    flat[name] = wire(cast("tuple[Sample, ...]", value))
                continue  # made of numbers by their places: the other end checks them
            case "reason":
                value = one_line(str(value), LONGEST_REASON)
            case "kind":
                value = cast("FailureKind", value).value
            case "unsupported":
                value = list(cast("tuple[str, ...]", value))
            case _:
                pass
        try:
            check(value)
        except ValueError as error:
            if name in known.needed:
                raise ValueError(f"{name}: {error}") from None
            continue
        flat[name] = value
    return flat


def part(kind: type) -> Check:
    """A check that makes a record of an answer."""
    known = _RECORDS[kind]
    absent: dict[str, Any] = {"device": None} if kind is DeviceFailure else {}

    def check(value: object) -> object:
        return kind(**{**absent, **checked(value, known.table, known.needed)})

    return check
