"""What NVML tells of a GPU beyond what settlement needs, as samples of declared families."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from apportion.collectors.nvml_fields import (
    ECC,
    MEMORY_CELSIUS,
    NVLINK_ERRORS,
    PCIE_REPLAYS,
    RECOVERY_ACTION,
    REMAPPED,
    RETIRED,
    THROTTLED_NS,
    Field,
)
from apportion.core.sample import Sample

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]
"""A sample without its value."""

_NS_PER_SECOND: Final = 1e9
_MIB: Final = 1024 * 1024
_PERCENT: Final = 100


def _by(label: str, name: str, texts: Sequence[str]) -> tuple[Key, ...]:
    return tuple((name, ((label, text),)) for text in texts)


def _table(fields: Sequence[Field], keys: Sequence[Key]) -> dict[Field, Key]:
    return dict(zip(fields, keys, strict=True))


_THROTTLED: Final = _table(
    THROTTLED_NS,
    _by(
        "reason",
        "device_throttled_seconds_total",
        (
            *("power", "thermal", "sync_boost", "board_limit", "low_utilization"),
            *("reliability", "sw_thermal", "hw_thermal", "hw_power_brake"),
        ),
    ),
)
_REASON_BITS: Final = (0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x200, 0x400)
_REASONS: Final = _by(
    "reason",
    "device_throttle_active",
    (
        *("power", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal"),
        *("hw_power_brake", "board_limit", "reliability"),
    ),
)
"""nvmlClocksEventReason* by bit. Idleness and clocks that a person set are no throttling."""
_MEMORY_CELSIUS: Final[Key] = ("device_memory_temperature_celsius", ())

_SEVERITIES: Final = ("corrected", "uncorrected")
_LINK_ERRORS: Final = ("crc_flit", "crc_data", "replay", "recovery")
_SLOW: Final[Mapping[Field, Key]] = {
    **_table(ECC[:2], _by("severity", "device_ecc_errors_total", _SEVERITIES)),
    **_table(ECC[2:], _by("severity", "device_ecc_lifetime_errors_total", _SEVERITIES)),
    **_table(RETIRED[:2], _by("severity", "device_retired_pages", _SEVERITIES)),
    RETIRED[2]: ("device_page_retirement_pending", ()),
    **_table(NVLINK_ERRORS, _by("counter", "device_nvlink_errors_total", _LINK_ERRORS)),
    PCIE_REPLAYS: ("device_pcie_replays_total", ()),
    **_table(REMAPPED[:2], _by("severity", "device_remapped_rows", _SEVERITIES)),
    REMAPPED[2]: ("device_row_remap_pending", ()),
    REMAPPED[3]: ("device_row_remap_failed", ()),
}
_ACTIONS: Final = _by(
    "action",
    "device_recovery_action",
    (
        *("none", "gpu_reset", "node_reboot", "drain_p2p", "drain_and_reset"),
        *("recover_imex_domain", "bus_reset", "system_reboot"),
    ),
)
"""nvmlDeviceGpuRecoveryAction_t by its number."""

_STATISTICS: Final = _by("statistic", "device_power_window_watts", ("min", "mean", "max"))
_LINK: Final[tuple[Key, ...]] = (
    *_by("bound", "device_pcie_link_generation", ("current", "max")),
    *_by("bound", "device_pcie_link_width", ("current", "max")),
)
_CODECS: Final = _by("codec", "device_codec_utilization_ratio", ("encoder", "decoder"))
_PROCESSES: Final[Key] = ("device_processes", ())

GPM_METRICS: Final[Mapping[int, tuple[Key, float]]] = {
    1: (("device_engine_active_ratio", ()), 1 / _PERCENT),
    2: (("device_sm_active_ratio", ()), 1 / _PERCENT),
    3: (("device_sm_occupancy_ratio", ()), 1 / _PERCENT),
    5: (("device_pipe_active_ratio", (("pipe", "tensor"),)), 1 / _PERCENT),
    10: (("device_dram_active_ratio", ()), 1 / _PERCENT),
    11: (("device_pipe_active_ratio", (("pipe", "fp64"),)), 1 / _PERCENT),
    12: (("device_pipe_active_ratio", (("pipe", "fp32"),)), 1 / _PERCENT),
    13: (("device_pipe_active_ratio", (("pipe", "fp16"),)), 1 / _PERCENT),
    20: (("device_pcie_bytes_per_second", (("direction", "transmit"),)), _MIB),
    21: (("device_pcie_bytes_per_second", (("direction", "receive"),)), _MIB),
    60: (("device_nvlink_bytes_per_second", (("direction", "receive"),)), _MIB),
    61: (("device_nvlink_bytes_per_second", (("direction", "transmit"),)), _MIB),
}
"""By nvmlGpmMetricId_t: the sample, and by what the metric (percent or MiB/s) is multiplied."""
GPM_ACTIVE: Final = 1
"""The share of time in which anything ran: evidence that a device was not idle."""
_RATIO_SUFFIX: Final = "_ratio"

KEYS: Final[tuple[Key, ...]] = (
    *_THROTTLED.values(),
    *_REASONS,
    _MEMORY_CELSIUS,
    *_SLOW.values(),
    *_ACTIONS,
    *_STATISTICS,
    *_LINK,
    *_CODECS,
    _PROCESSES,
    *(key for key, _ in GPM_METRICS.values()),
    ("device_temperature_celsius", ()),
)
"""All of them: child and parent name a sample by its place here."""


def hot_samples(values: Mapping[Field, int], reasons: int | None) -> Iterator[Sample]:
    """Of the fields that are read every period, and the bits of what limits the clocks."""
    for field, (name, labels) in _THROTTLED.items():
        if field in values:
            yield Sample(name, values[field] / _NS_PER_SECOND, labels)
    if MEMORY_CELSIUS in values:
        yield Sample(_MEMORY_CELSIUS[0], values[MEMORY_CELSIUS])
    if reasons is not None:
        for bit, (name, labels) in zip(_REASON_BITS, _REASONS, strict=True):
            yield Sample(name, 1 if reasons & bit else 0, labels)


def slow_samples(values: Mapping[Field, int]) -> Iterator[Sample]:
    """Of the fields that are read every few periods."""
    for field, (name, labels) in _SLOW.items():
        if field in values:
            yield Sample(name, values[field], labels)
    action = values.get(RECOVERY_ACTION)
    if action is not None and action < len(_ACTIONS):
        name, labels = _ACTIONS[action]
        yield Sample(name, 1, labels)


def power_samples(milliwatts: Sequence[int]) -> Iterator[Sample]:
    """Lowest, mean and highest of the driver's samples since the last reading."""
    if milliwatts:
        told = (min(milliwatts), sum(milliwatts) / len(milliwatts), max(milliwatts))
        for (name, labels), value in zip(_STATISTICS, told, strict=True):
            yield Sample(name, value / 1_000, labels)


def link_samples(numbers: Sequence[int | None]) -> Iterator[Sample]:
    """The PCIe link: generation now and at most, width now and at most."""
    for (name, labels), number in zip(_LINK, numbers, strict=True):
        if number is not None:
            yield Sample(name, number, labels)


def codec_samples(percents: Sequence[int | None]) -> Iterator[Sample]:
    """Use of the encoder and of the decoder."""
    for (name, labels), percent in zip(_CODECS, percents, strict=True):
        if percent is not None and 0 <= percent <= _PERCENT:
            yield Sample(name, percent / _PERCENT, labels)


def gpm_samples(metrics: Sequence[float | None]) -> Iterator[Sample]:
    """Activity between two readings, in the order of `GPM_METRICS`."""
    for ((name, labels), factor), value in zip(GPM_METRICS.values(), metrics, strict=True):
        if value is None or value < 0:
            continue
        scaled = value * factor
        # The counters of a ratio are not read at one instant: it can come out a little above 1.
        yield Sample(name, min(1.0, scaled) if name.endswith(_RATIO_SUFFIX) else scaled, labels)


def process_samples(count: int) -> Iterator[Sample]:
    """How many processes hold the device."""
    yield Sample(_PROCESSES[0], count)
