"""What DCGM tells of a device beyond what settlement needs: families, and samples of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from apportion.core.family import Family, Kind
from apportion.core.sample import Sample

_DEVICE: Final = ("device",)
_SAMPLES: Final[tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]] = (
    ("engine_active", "device_engine_active_ratio", ()),
    ("sm_active", "device_sm_active_ratio", ()),
    ("sm_occupancy", "device_sm_occupancy_ratio", ()),
    ("tensor_active", "device_pipe_active_ratio", (("pipe", "tensor"),)),
    ("fp64_active", "device_pipe_active_ratio", (("pipe", "fp64"),)),
    ("fp32_active", "device_pipe_active_ratio", (("pipe", "fp32"),)),
    ("fp16_active", "device_pipe_active_ratio", (("pipe", "fp16"),)),
    ("dram_active", "device_dram_active_ratio", ()),
    ("encoder", "device_codec_utilization_ratio", (("codec", "encoder"),)),
    ("decoder", "device_codec_utilization_ratio", (("codec", "decoder"),)),
    ("memory_temperature", "device_memory_temperature_celsius", ()),
    ("pcie_tx_rate", "device_pcie_bytes_per_second", (("direction", "transmit"),)),
    ("pcie_rx_rate", "device_pcie_bytes_per_second", (("direction", "receive"),)),
    ("nvlink_tx_rate", "device_nvlink_bytes_per_second", (("direction", "transmit"),)),
    ("nvlink_rx_rate", "device_nvlink_bytes_per_second", (("direction", "receive"),)),
    ("nvlink_rate", "device_nvlink_bytes_per_second", (("direction", "both"),)),
    ("pcie_replays", "device_pcie_replays_total", ()),
    ("ecc_corrected", "device_ecc_errors_total", (("severity", "corrected"),)),
    ("ecc_uncorrected", "device_ecc_errors_total", (("severity", "uncorrected"),)),
    ("remapped_corrected", "device_remapped_rows", (("severity", "corrected"),)),
    ("remapped_uncorrected", "device_remapped_rows", (("severity", "uncorrected"),)),
    ("remap_failed", "device_row_remap_failed", ()),
    ("power_throttled", "device_throttled_seconds_total", (("reason", "power"),)),
    ("thermal_throttled", "device_throttled_seconds_total", (("reason", "thermal"),)),
)
"""By the word in `dcgm_fields.FIELDS`: the sample that it becomes."""


def _family(name: str, unit: str, text: str, *labels: str) -> Family:
    kind: Kind = "counter" if name.endswith("_total") else "gauge"
    return Family(
        f"apportion_device_{name}", kind, unit, (*_DEVICE, *labels), text, "dcgm", simulated=True
    )


FAMILIES: Final[tuple[Family, ...]] = (
    _family(
        "engine_active_ratio",
        "ratio",
        "Share of the source's interval in which any part of the graphics or compute engine was "
        "active.",
    ),
    _family("sm_active_ratio", "ratio", "Share of time with a warp on an SM, mean over all SMs."),
    _family("sm_occupancy_ratio", "ratio", "Resident warps over the most that are possible."),
    _family(
        "pipe_active_ratio", "ratio", "Share of cycles in which an arithmetic pipe ran.", "pipe"
    ),
    _family(
        "dram_active_ratio", "ratio", "Share of cycles in which device memory was moving data."
    ),
    _family("codec_utilization_ratio", "ratio", "Use of the video encoder or decoder.", "codec"),
    _family("memory_temperature_celsius", "celsius", "Temperature of the memory."),
    _family(
        "pcie_bytes_per_second",
        "bytes per second",
        "Traffic over PCIe during the source's interval: a rate, it goes down.",
        "direction",
    ),
    _family(
        "nvlink_bytes_per_second",
        "bytes per second",
        "Traffic over NVLink during the source's interval: a rate, it goes down.",
        "direction",
    ),
    _family("pcie_replays_total", "replays", "Packets that PCIe sent again."),
    _family("ecc_errors_total", "errors", "ECC errors since the driver was loaded.", "severity"),
    _family("remapped_rows", "rows", "Rows of memory that were remapped.", "severity"),
    _family("row_remap_failed", "boolean", "Whether a row could not be remapped."),
    _family("throttled_seconds_total", "seconds", "Time with lowered clocks.", "reason"),
    _family(
        "xid_errors_total",
        "errors",
        "XID errors by code. From dcgm-exporter without its own counter, which shows the last code "
        "only: changes of it that were seen, so that the same code twice in a row counts once.",
        "xid",
    ),
    _family("xid_last_code", "code", "The code of the last XID error, 0 before any."),
)

MOST_XIDS: Final = 64


def telemetry(values: Mapping[str, float]) -> tuple[Sample, ...]:
    """Samples of a device's values, by the words of `dcgm_fields.FIELDS`."""
    return tuple(
        Sample(name, values[word], labels) for word, name, labels in _SAMPLES if word in values
    )


class XidErrors:
    """Counts XID errors of one GPU as well as its exporter allows."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._changes: dict[int, int] = {}

    def samples(self, code: float | None, totals: Mapping[int, int]) -> tuple[Sample, ...]:
        """`code` is the last one that the GPU had, `totals` the exporter's own counter by code.

        A code that was there at the first look is not counted: nobody knows since when.
        """
        told: list[Sample] = []
        if code is not None:
            now = int(code)
            if self._last is not None and now not in {0, self._last}:
                self._changes[now] = self._changes.get(now, 0) + 1
            self._last = now
            told.append(Sample("device_xid_last_code", now))
        counts = totals or self._changes
        told += (
            Sample("device_xid_errors_total", counts[xid], (("xid", str(xid)),))
            for xid in sorted(counts)[:MOST_XIDS]
        )
        return tuple(told)
