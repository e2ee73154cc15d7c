"""What is measured for a whole GPU only: energy, power, heat, clocks, links, errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from apportion.collectors.nvml_ask import NvmlAsk
from apportion.collectors.nvml_error import NvmlError
from apportion.collectors.nvml_fields import (
    ENERGY,
    HOT,
    NVLINK5_RX,
    NVLINK5_TX,
    NVLINK_RX_KIB,
    NVLINK_TX_KIB,
    PCIE_RX,
    PCIE_TX,
    POWER_AVERAGE,
    POWER_INSTANT,
    SLOW,
    FieldReading,
    NvmlFields,
    link_bytes,
)
from apportion.collectors.nvml_library import (
    CLOCK_MEMORY,
    CLOCK_SM,
    SAMPLES_POWER,
    Number,
    NvmlHandle,
    NvmlLibrary,
    SampleQuery,
)
from apportion.collectors.nvml_telemetry import (
    codec_samples,
    hot_samples,
    link_samples,
    power_samples,
    slow_samples,
)
from apportion.collectors.power_integral import PowerIntegral
from apportion.core.clock import Clock
from apportion.core.sample import Sample
from apportion.core.units import Bytes, Millijoules, Milliwatts, MonotonicNs

_HZ_PER_MHZ: Final = 1_000_000
_LINK: Final[tuple[Number, ...]] = (
    "CurrPcieLinkGeneration",
    "MaxPcieLinkGeneration",
    "CurrPcieLinkWidth",
    "MaxPcieLinkWidth",
)


@dataclass(frozen=True, slots=True)
class Chip:
    """The values of one GPU at `time_ns`; None: it cannot tell. `samples` are of this reading."""

    time_ns: MonotonicNs
    energy_mj: Millijoules | None
    energy_source: str | None
    power_mw: Milliwatts | None
    temperature_celsius: float | None
    sm_clock_hz: int | None
    memory_clock_hz: int | None
    pcie_tx_bytes: Bytes | None
    pcie_rx_bytes: Bytes | None
    nvlink_tx_bytes: Bytes | None
    nvlink_rx_bytes: Bytes | None
    samples: tuple[Sample, ...]

    @property
    def told(self) -> tuple[object, ...]:
        """What the device itself said, to see whether it said anything at all."""
        return (self.energy_mj, self.power_mw, self.temperature_celsius, self.sm_clock_hz)


class NvmlChip:
    """The GPU behind `handle`, for as long as NVML stays open."""

    def __init__(self, library: NvmlLibrary, clock: Clock, handle: NvmlHandle) -> None:
        self._library = library
        self._clock = clock
        self._handle = handle
        self._ask = NvmlAsk(handle)
        self._hot = NvmlFields(library, handle, HOT)
        self._slow = NvmlFields(library, handle, SLOW)
        self._samples: SampleQuery | None = None
        self._integral = PowerIntegral()

    @property
    def power_source(self) -> str | None:
        """`field_instant`, `field_average`, `power_usage`, or None where none of them exists."""
        if not self._hot.lacks(POWER_INSTANT):
            return "field_instant"
        if not self._hot.lacks(POWER_AVERAGE):
            return "field_average"
        return None if "power" in self._ask.unsupported else "power_usage"

    @property
    def energy_source(self) -> str | None:
        """`energy_counter`, `power_integrated` or None."""
        if "energy" not in self._ask.unsupported:
            return "energy_counter"
        return None if self.power_source is None else "power_integrated"

    @property
    def unsupported(self) -> frozenset[str]:
        """Names of what this GPU cannot tell, as far as `read` has found out."""
        missing = set(self._ask.unsupported)
        if self._hot.lacks(PCIE_TX):
            missing.add("pcie")
        if self._hot.lacks(NVLINK_TX_KIB) and self._hot.lacks(NVLINK5_TX[0]):
            missing.add("nvlink")
        return frozenset(missing)

    @property
    def troubles(self) -> list[NvmlError]:
        """What went wrong in the last reading."""
        return self._ask.troubles

    @property
    def is_forbidden(self) -> bool:
        """Whether something was refused for want of rights."""
        return self._ask.is_forbidden or self._hot.forbidden

    def read(self) -> Chip:
        """The values of this moment.

        Raises:
            DeviceLost: this GPU no longer answers.
            SourceLost: NVML itself no longer answers.
        """
        if self._ask.begin():
            self._hot = NvmlFields(self._library, self._handle, HOT)
            self._slow = NvmlFields(self._library, self._handle, SLOW)
        ask, library = self._ask, self._library
        before_ns = self._clock.monotonic_ns()
        fields = self._read_fields(self._hot)
        counter_mj = fields.values.get(ENERGY)
        if counter_mj is None and self._hot.lacks(ENERGY):
            counter_mj = ask("energy", library.device_get_total_energy_consumption)
        # The counter was read somewhere in between: the middle is at most half a call off.
        time_ns = MonotonicNs((before_ns + self._clock.monotonic_ns()) // 2)
        values = fields.values
        power_mw = values.get(POWER_INSTANT, values.get(POWER_AVERAGE))
        if power_mw is None and self.power_source == "power_usage":
            power_mw = ask("power", library.device_get_power_usage)
        energy_mj, energy_source = self._energy(counter_mj, time_ns, power_mw)
        sm_mhz = ask("sm_clock", lambda handle: library.device_get_clock_info(handle, CLOCK_SM))
        memory_mhz = ask(
            "memory_clock", lambda handle: library.device_get_clock_info(handle, CLOCK_MEMORY)
        )
        celsius = self._celsius()
        reasons = ask(
            "throttle", lambda h: library.device_get_number(h, "CurrentClocksEventReasons")
        )
        return Chip(
            time_ns=time_ns,
            energy_mj=energy_mj,
            energy_source=energy_source,
            power_mw=None if power_mw is None else Milliwatts(power_mw),
            temperature_celsius=None if celsius is None else float(celsius),
            sm_clock_hz=None if sm_mhz is None else sm_mhz * _HZ_PER_MHZ,
            memory_clock_hz=None if memory_mhz is None else memory_mhz * _HZ_PER_MHZ,
            pcie_tx_bytes=_bytes(values.get(PCIE_TX)),
            pcie_rx_bytes=_bytes(values.get(PCIE_RX)),
            nvlink_tx_bytes=_bytes(link_bytes(values, NVLINK_TX_KIB, NVLINK5_TX)),
            nvlink_rx_bytes=_bytes(link_bytes(values, NVLINK_RX_KIB, NVLINK5_RX)),
            samples=(
                *hot_samples(values, reasons),
                *power_samples(ask("power_samples", self._power_samples) or ()),
            ),
        )

    def read_slow(self) -> tuple[Sample, ...]:
        """What changes rarely: errors, rows out of use, the link, codecs. Raises as `read` does."""
        ask, library = self._ask, self._library
        link = [ask(name, partial(_number, library, name)) for name in _LINK]
        codecs = [
            ask("encoder", lambda h: library.device_get_codec_utilization(h, "Encoder")),
            ask("decoder", lambda h: library.device_get_codec_utilization(h, "Decoder")),
        ]
        return (
            *slow_samples(self._read_fields(self._slow).values),
            *link_samples(link),
            *codec_samples(codecs),
        )

    def power_limit_mw(self) -> Milliwatts | None:
        """The limit in force; a person may change it."""
        limit_mw = self._ask("power_limit", self._library.device_get_enforced_power_limit)
        return None if limit_mw is None else Milliwatts(limit_mw)

    def _read_fields(self, fields: NvmlFields) -> FieldReading:
        told = fields.read()
        if told.trouble is not None:
            self._ask.troubles.append(told.trouble)
        return told

    def _energy(
        self, counter_mj: int | None, time_ns: int, power_mw: int | None
    ) -> tuple[Millijoules | None, str | None]:
        """The counter's energy; the integral of the power only where there is no counter.

        A counter that fails once is not replaced by the integral: the two have different zeros.
        """
        if counter_mj is not None:
            return Millijoules(counter_mj), "energy_counter"
        if "energy" in self._ask.unsupported and power_mw is not None:
            return self._integral.add(time_ns, power_mw), "power_integrated"
        return None, None

    def _celsius(self) -> int | None:
        celsius = self._ask("temperature_v", self._library.device_get_temperature_v)
        if celsius is None and "temperature_v" in self._ask.unsupported:
            celsius = self._ask("temperature", self._library.device_get_temperature)
        return celsius

    def _power_samples(self, handle: NvmlHandle) -> list[int]:
        if self._samples is None:
            self._samples = self._library.device_sample_query(handle, SAMPLES_POWER)
            self._samples.read()  # what the driver kept from before belongs to no reading
            return []
        return list(self._samples.read())


def _number(library: NvmlLibrary, number: Number, handle: NvmlHandle) -> int:
    return library.device_get_number(handle, number)


def _bytes(count: int | None) -> Bytes | None:
    return None if count is None else Bytes(count)
