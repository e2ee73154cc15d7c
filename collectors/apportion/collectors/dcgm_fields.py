"""The fields of dcgm-exporter that are used here, by every name they go by, and their units.

A field has up to three names: DCGM's old one, the one that DCGM 4.5 gave to the same id, and a
third for the same value in base units, with an id of its own, from DCGM 4.7 on. What an exporter
shows depends on its version and on its list of counters, so all of them are looked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

INT_BLANK: Final = 0x7FFFFFFFFFFFFFF0
FLOAT_BLANK: Final = 140737488355328.0
"""At and above these DCGM says that there is no value: not found, not supported, not permitted."""

_MEBI: Final = 1 << 20
_MHZ: Final = 1_000_000
_THROUGHPUT: Final = 1_024_000
"""DCGM's MB/s of NVLink are KiB/s divided by 1,000."""

Convert = Callable[[float], float | None]


class Spelling(NamedTuple):
    """One name of a field, and how its value becomes ours; None where it cannot be one."""

    name: str
    convert: Convert


def _times(scale: float) -> Convert:
    def convert(value: float) -> float | None:
        return value * scale if value >= 0 else None

    return convert


def _energy(scale: int) -> Convert:
    """A counter of a GPU that is on is above 0; a blip to 0 and back would be all of it anew."""

    def convert(value: float) -> float | None:
        return value * scale if value > 0 else None

    return convert


def _ratio(value: float) -> float | None:
    """0 to 1; sampling may overshoot a little."""
    return min(1.0, float(value)) if 0 <= value <= 1.05 else None


def _percent(value: float) -> float | None:
    return _ratio(value / 100)


def _percent_or_ratio(value: float) -> float | None:
    """The same name was a whole percentage in DCGM 4.5 and 4.6, and is a fraction from 4.7 on."""
    return _percent(value) if isinstance(value, int) else _ratio(value)


def _celsius(value: float) -> float | None:
    """0 is what is printed for a sensor that is not there."""
    return float(value) if value != 0 else None


def _code(value: float) -> float | None:
    return value if value >= 0 and value == int(value) else None


def _all(convert: Convert, *names: str) -> tuple[Spelling, ...]:
    return tuple(Spelling(name, convert) for name in names)


def _dev(convert: Convert, *names: str) -> tuple[Spelling, ...]:
    return _all(convert, *(f"DCGM_FI_DEV_{name}" for name in names))


def _prof(*names: str) -> tuple[Spelling, ...]:
    return _all(_ratio, *(f"DCGM_FI_PROF_{name}" for name in names))


_SECONDS_OF_NS: Final = _times(1e-9)

FIELDS: Final = {
    # what settlement needs
    "energy_mj": (
        *_dev(_energy(1), "TOTAL_ENERGY_CONSUMPTION"),
        *_dev(_energy(1_000), "GPU_ENERGY_JOULES_TOTAL"),
    ),
    "power_mw": _dev(
        _times(1_000),
        "POWER_USAGE",
        "BOARD_POWER_WATTS",
        "POWER_USAGE_INSTANT",
        "BOARD_POWER_RAW_WATTS",
    ),
    "engine_active": _prof("GR_ENGINE_ACTIVE", "GR_ENGINE_UTIL_RATIO"),
    "utilization": (*_dev(_percent, "GPU_UTIL"), *_dev(_percent_or_ratio, "GPU_UTIL_RATIO")),
    # facts and gauges of a reading
    "power_limit_mw": _dev(
        _times(1_000), "ENFORCED_POWER_LIMIT", "BOARD_POWER_LIMIT_ENFORCED_WATTS"
    ),
    "memory_total_bytes": (*_dev(_times(_MEBI), "FB_TOTAL"), *_dev(_times(1), "FB_CAPACITY_BYTES")),
    "memory_free_bytes": (*_dev(_times(_MEBI), "FB_FREE"), *_dev(_times(1), "FB_FREE_BYTES")),
    "memory_used_bytes": (*_dev(_times(_MEBI), "FB_USED"), *_dev(_times(1), "FB_USED_BYTES")),
    "memory_reserved_bytes": (
        *_dev(_times(_MEBI), "FB_RESERVED"),
        *_dev(_times(1), "FB_RESERVED_BYTES"),
    ),
    "memory_utilization": (
        *_dev(_percent, "MEM_COPY_UTIL"),
        *_dev(_percent_or_ratio, "MEMORY_UTIL_RATIO"),
    ),
    "temperature_celsius": _dev(_celsius, "GPU_TEMP", "GPU_TEMP_CELSIUS"),
    "sm_clock_hz": (*_dev(_times(_MHZ), "SM_CLOCK"), *_dev(_times(1), "SM_CLOCK_HERTZ")),
    "memory_clock_hz": (*_dev(_times(_MHZ), "MEM_CLOCK"), *_dev(_times(1), "MEMORY_CLOCK_HERTZ")),
    "pcie_tx_bytes": _all(_times(1), "DCGM_FI_PROF_PCIE_TX_BYTES_TOTAL"),
    "pcie_rx_bytes": _all(_times(1), "DCGM_FI_PROF_PCIE_RX_BYTES_TOTAL"),
    "nvlink_tx_bytes": _dev(_times(1), "NVLINK_COUNT_TX_BYTES", "NVLINK_TX_BYTES_TOTAL"),
    "nvlink_rx_bytes": _dev(_times(1), "NVLINK_COUNT_RX_BYTES", "NVLINK_RX_BYTES_TOTAL"),
    # the rest
    "xid": _dev(_code, "XID_ERRORS", "XID_ERROR"),
    "sm_active": _prof("SM_ACTIVE", "SM_UTIL_RATIO"),
    "sm_occupancy": _prof("SM_OCCUPANCY", "SM_OCCUPANCY_RATIO"),
    "tensor_active": _prof("PIPE_TENSOR_ACTIVE", "TENSOR_UTIL_RATIO"),
    "fp64_active": _prof("PIPE_FP64_ACTIVE", "FP64_UTIL_RATIO"),
    "fp32_active": _prof("PIPE_FP32_ACTIVE", "FP32_UTIL_RATIO"),
    "fp16_active": _prof("PIPE_FP16_ACTIVE", "FP16_UTIL_RATIO"),
    "dram_active": _prof("DRAM_ACTIVE", "DRAM_UTIL_RATIO"),
    "encoder": (*_dev(_percent, "ENC_UTIL"), *_dev(_percent_or_ratio, "ENC_UTIL_RATIO")),
    "decoder": (*_dev(_percent, "DEC_UTIL"), *_dev(_percent_or_ratio, "DEC_UTIL_RATIO")),
    "memory_temperature": _dev(_celsius, "MEMORY_TEMP", "MEMORY_TEMP_CELSIUS"),
    "pcie_tx_rate": _all(_times(1), "DCGM_FI_PROF_PCIE_TX_BYTES"),
    "pcie_rx_rate": _all(_times(1), "DCGM_FI_PROF_PCIE_RX_BYTES"),
    "nvlink_tx_rate": _all(_times(1), "DCGM_FI_PROF_NVLINK_TX_BYTES"),
    "nvlink_rx_rate": _all(_times(1), "DCGM_FI_PROF_NVLINK_RX_BYTES"),
    "nvlink_rate": (
        *_dev(_times(_THROUGHPUT), "NVLINK_BANDWIDTH_TOTAL", "NVLINK_THROUGHPUT_TOTAL"),
        *_dev(_times(1), "NVLINK_THROUGHPUT_BYTES_PER_SECOND"),
    ),
    "pcie_replays": _dev(_times(1), "PCIE_REPLAY_COUNTER", "PCIE_REPLAY_TOTAL"),
    "ecc_corrected": _dev(_times(1), "ECC_SBE_VOL_TOTAL"),
    "ecc_uncorrected": _dev(_times(1), "ECC_DBE_VOL_TOTAL"),
    "remapped_corrected": _dev(
        _times(1), "CORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_CORRECTABLE_TOTAL"
    ),
    "remapped_uncorrected": _dev(
        _times(1), "UNCORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_UNCORRECTABLE_TOTAL"
    ),
    "remap_failed": _dev(_times(1), "ROW_REMAP_FAILURE", "ROW_REMAP_FAILED"),
    "power_throttled": (
        *_dev(_SECONDS_OF_NS, "POWER_VIOLATION"),
        *_dev(_times(1), "GPU_POWER_THROTTLE_SECONDS_TOTAL"),
    ),
    "thermal_throttled": (
        *_dev(_SECONDS_OF_NS, "THERMAL_VIOLATION"),
        *_dev(_times(1), "GPU_THERMAL_THROTTLE_SECONDS_TOTAL"),
    ),
}
"""By our own word: the names, the oldest first; the first that has a value counts.

Energy is in mJ, power in mW, memory and traffic in bytes, clocks in Hz, temperatures in degrees
Celsius, times in seconds, ratios in 0..1. What is named `rate` is bytes per second and goes down,
whatever TYPE says.
"""

XID_TOTAL: Final = "DCGM_EXP_XID_ERRORS_TOTAL"
"""The exporter's own counter, by `xid`; off by default. `DCGM_EXP_XID_ERRORS_COUNT` is not one."""

WANTED: Final = frozenset(
    (XID_TOTAL, *(spelling.name for field in FIELDS.values() for spelling in field))
)
"""The raw names that are read."""


def is_blank(value: float) -> bool:
    """Whether DCGM means no value by it."""
    if isinstance(value, int):
        return value >= INT_BLANK
    return not math.isfinite(value) or value >= FLOAT_BLANK
