"""One GPU as dcgm-exporter shows it: a device, or its MIG instances and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from apportion.collectors.dcgm_energy import DcgmEnergy, Energy
from apportion.collectors.dcgm_rows import GpuRows
from apportion.collectors.dcgm_telemetry import XidErrors, telemetry
from apportion.collectors.mig_shares import REST, divided, rest_name, shares
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.sample import Sample
from apportion.core.units import Bytes, Millijoules, Milliwatts, MonotonicNs

UNKNOWN_MODEL: Final = "NVIDIA GPU of unknown model"
"""Where the exporter gives no model (its first releases): no price table has it."""
_SIMULATED_MARK: Final = "simulated"
_OF_CHIP: Final[tuple[str, ...]] = ("temperature_celsius", "sm_clock_hz", "memory_clock_hz")
"""What all instances of a chip have in common."""
_OF_INSTANCE: Final = frozenset(
    (
        *("engine_active", "sm_active", "sm_occupancy", "tensor_active", "dram_active"),
        *("fp64_active", "fp32_active", "fp16_active"),
        *("memory_total_bytes", "memory_free_bytes", "memory_used_bytes"),
        "memory_reserved_bytes",
    )
)
"""What DCGM measures for an instance; all else on its rows is the whole GPU's, repeated."""

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class GpuTold:
    """What one look brought. `samples` are of the GPU as a whole where it is cut in instances."""

    readings: tuple[Reading, ...] = ()
    devices: tuple[DeviceInfo, ...] = ()
    samples: tuple[Sample, ...] = ()


class DcgmGpu:
    """What is known of one GPU over time; `read` is called with each new look at its exporter."""

    def __init__(self, uuid: str, longest_gap_ns: int) -> None:
        """`longest_gap_ns`: see `DcgmEnergy`."""
        self._uuid = uuid
        self._energy = DcgmEnergy(longest_gap_ns)
        self._xids = XidErrors()
        self._given_mj: dict[DeviceId, int] = {}

    @property
    def unchanged_ns(self) -> int:
        """For how long the exporter has shown the same values of it."""
        return self._energy.unchanged_ns

    def read(self, gpu: GpuRows, time_ns: MonotonicNs) -> GpuTold:
        """The readings of its devices; none where the exporter still shows its last values."""
        looked = self._energy.look(gpu.whole("energy_mj"), gpu.whole("power_mw"), time_ns)
        if looked is None:
            return GpuTold()
        energy, taken_ns = looked
        xids = self._xids.samples(gpu.whole("xid"), gpu.xids)
        if gpu.instances:
            return self._of_instances(gpu, energy, taken_ns, xids)
        self._given_mj.clear()
        values = gpu.values
        reading = _reading(
            DeviceId(self._uuid),
            taken_ns,
            values,
            energy_mj=energy.total_mj,
            energy_source=energy.source,
            power_mw=gpu.whole("power_mw"),
            busy=_busy(values),
            samples=(*telemetry(values), *xids),
        )
        return GpuTold((reading,), (self._info(gpu, self._uuid, "", values),))

    def _of_instances(
        self,
        gpu: GpuRows,
        energy: Energy,
        time_ns: MonotonicNs,
        xids: tuple[Sample, ...],
    ) -> GpuTold:
        """Its instances and the rest. The whole GPU's energy and power are divided, not copied."""
        chip: Values = {word: gpu.values[word] for word in _OF_CHIP if word in gpu.values}
        profiles = {number: rows.profile for number, rows in gpu.instances.items()}
        parts: dict[DeviceId, tuple[str, Values]] = {
            DeviceId(f"{self._uuid}/{rows.profile}/{number}"): (
                f" MIG {rows.profile}",
                {**chip, **{w: v for w, v in rows.values.items() if w in _OF_INSTANCE}},
            )
            for number, rows in sorted(gpu.instances.items())
        }
        rest = DeviceId(f"{self._uuid}/{REST}")
        sizes = dict(zip((*parts, rest), shares(profiles, gpu.model), strict=True))
        if sizes[rest]:
            parts[rest] = (rest_name(profiles.values()), chip)
        source = None if energy.source is None else f"{energy.source}_share"
        self._give(energy.grown_mj, sizes)
        power_mw = gpu.whole("power_mw")
        power = {} if power_mw is None else divided(power_mw, sizes)
        readings = tuple(
            _reading(
                device,
                time_ns,
                values,
                energy_mj=None if source is None else self._given_mj[device],
                energy_source=source,
                power_mw=power.get(device),
                # nobody can run on the rest: that it is quiet needs no measurement
                busy=(0.0, REST) if device == rest else _busy(values),
                samples=telemetry(values),
            )
            for device, (_, values) in parts.items()
        )
        devices = tuple(
            self._info(gpu, device, suffix, values) for device, (suffix, values) in parts.items()
        )
        of_gpu = {word: value for word, value in gpu.values.items() if word not in _OF_INSTANCE}
        labelled = tuple(
            Sample(name, value, (("device", self._uuid), *labels))
            for name, value, labels in (*telemetry(of_gpu), *xids)
        )
        return GpuTold(readings, devices, labelled)

    def _give(self, grown_mj: int, sizes: Mapping[DeviceId, Fraction]) -> None:
        """Divide what the GPU used since the last reading; each part's sum only rises."""
        for device, part_mj in divided(grown_mj, sizes).items():
            self._given_mj[device] = self._given_mj.get(device, 0) + part_mj

    def _info(self, gpu: GpuRows, device: str, suffix: str, values: Values) -> DeviceInfo:
        total = _memory(values)[1]
        limit_mw = gpu.values.get("power_limit_mw") if not suffix else None
        return DeviceInfo(
            DeviceId(device),
            f"{gpu.model or UNKNOWN_MODEL}{suffix}",
            gpu.index,
            "dcgm",
            simulated=_SIMULATED_MARK in gpu.driver_version.lower(),
            driver_version=gpu.driver_version or None,
            memory_total_bytes=None if total is None else Bytes(total),
            power_limit_mw=None if limit_mw is None else Milliwatts(round(limit_mw)),
        )


def _reading(
    device: DeviceId,
    time_ns: MonotonicNs,
    values: Values,
    *,
    energy_mj: int | None,
    energy_source: str | None,
    power_mw: int | None,
    busy: tuple[float | None, str | None],
    samples: tuple[Sample, ...],
) -> Reading:
    used, total = _memory(values)
    busy_ratio, busy_source = busy
    return Reading(
        device,
        time_ns,
        energy_mj=None if energy_mj is None else Millijoules(energy_mj),
        energy_source=energy_source,
        power_mw=None if power_mw is None else Milliwatts(power_mw),
        utilization_ratio=busy_ratio,
        activity_source=busy_source,
        memory_used_bytes=None if used is None else Bytes(used),
        memory_total_bytes=None if total is None else Bytes(total),
        memory_utilization_ratio=values.get("memory_utilization"),
        temperature_celsius=values.get("temperature_celsius"),
        sm_clock_hz=_whole(values, "sm_clock_hz"),
        memory_clock_hz=_whole(values, "memory_clock_hz"),
        pcie_tx_bytes=_bytes(values, "pcie_tx_bytes"),
        pcie_rx_bytes=_bytes(values, "pcie_rx_bytes"),
        nvlink_tx_bytes=_bytes(values, "nvlink_tx_bytes"),
        nvlink_rx_bytes=_bytes(values, "nvlink_rx_bytes"),
        samples=samples,
    )


def _busy(values: Values) -> tuple[float | None, str | None]:
    """Activity over the exporter's whole interval where it has that, else over a moment of it.

    Profiling that has stopped (an XID 31 can do that) shows 0 while the GPU works on.
    """
    active, moment = values.get("engine_active"), values.get("utilization")
    if active is not None and (active or not moment):
        return active, "dcgm_engine_active"
    return moment, None if moment is None else "dcgm_gpu_util"


def _memory(values: Values) -> tuple[int | None, int | None]:
    """Bytes in use and in total. Free, used and reserved are the whole, as NVML's version 2 has it.

    Older exporters do not tell what is reserved, and count it as used.
    """
    used, total = _whole(values, "memory_used_bytes"), _whole(values, "memory_total_bytes")
    free = _whole(values, "memory_free_bytes")
    if total is None and used is not None and free is not None:
        total = used + free + (_whole(values, "memory_reserved_bytes") or 0)
    return used, total


def _whole(values: Values, word: str) -> int | None:
    value = values.get(word)
    return None if value is None else round(value)


def _bytes(values: Values, word: str) -> Bytes | None:
    value = _whole(values, word)
    return None if value is None else Bytes(value)
