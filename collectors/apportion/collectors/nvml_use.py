"""How a GPU or a MIG instance is used: how busy it was, its memory, who computes on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from apportion.collectors.nvml_ask import NvmlAsk
from apportion.collectors.nvml_error import NvmlEmpty, NvmlError
from apportion.collectors.nvml_library import (
    SAMPLES_UTILIZATION,
    GpmQuery,
    NvmlHandle,
    NvmlLibrary,
    ProcessSample,
    SampleQuery,
)
from apportion.collectors.nvml_telemetry import GPM_ACTIVE, GPM_METRICS, gpm_samples
from apportion.core.clock import Clock
from apportion.core.reading import ProcessReading
from apportion.core.sample import Sample
from apportion.core.units import Bytes

_PERCENT: Final = 100
_SOURCES: Final = ("gpm", "utilization_samples", "utilization")
"""The best first; a MIG instance has the first only."""
GPM_LEAST_NS: Final = 150_000_000
"""NVML refreshes what GPM is made of every 100 ms: two samples must be further apart."""
_MOST_PID: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Use:
    """The use of one device between two readings; None: it cannot tell.

    `busy_ratio` is the share of the time in which anything ran. `busy_source` says how that is
    known: `gpm` and `utilization_samples` cover all of it, `utilization` its last moments.
    """

    busy_ratio: float | None
    busy_source: str | None
    memory_busy_ratio: float | None
    memory_used_bytes: Bytes | None
    memory_total_bytes: Bytes | None
    samples: tuple[Sample, ...]

    @property
    def told(self) -> tuple[object, ...]:
        """What the device itself said, to see whether it said anything at all."""
        return (self.busy_ratio, self.memory_busy_ratio, self.memory_total_bytes)


class NvmlUse:
    """The device behind `handle`: a GPU, or a MIG instance with `gpu_instance` of `gpu`.

    Nothing but memory, processes and GPM is known of a MIG instance.
    """

    def __init__(
        self,
        library: NvmlLibrary,
        clock: Clock,
        handle: NvmlHandle,
        *,
        gpu: NvmlHandle | None = None,
        gpu_instance: int | None = None,
    ) -> None:
        self._library = library
        self._clock = clock
        self._gpu = handle if gpu is None else gpu
        self._gpu_instance = gpu_instance
        self._ask = NvmlAsk(handle)
        self._gpm: GpmQuery | None = None
        self._metrics: list[float | None] = []
        self._metrics_ns = 0
        self._busy: SampleQuery | None = None
        self._last_seen_us = 0

    @property
    def activity_source(self) -> str | None:
        """How it is known how busy the device was; None where nothing tells."""
        for source in _SOURCES[: None if self._gpu_instance is None else 1]:
            if source not in self._ask.unsupported:
                return source
        return None

    @property
    def unsupported(self) -> frozenset[str]:
        """Names of what this device cannot tell, as far as `read` has found out."""
        return frozenset(self._ask.unsupported)

    @property
    def troubles(self) -> list[NvmlError]:
        """What went wrong in the last reading."""
        return self._ask.troubles

    @property
    def is_forbidden(self) -> bool:
        """Whether something was refused for want of rights."""
        return self._ask.is_forbidden

    def at(self, handle: NvmlHandle) -> None:
        """A MIG instance has this handle now."""
        self._ask.handle = handle

    def read(self) -> Use:
        """The use since the last call.

        Raises:
            DeviceLost: this device no longer answers.
            SourceLost: NVML itself no longer answers.
        """
        self._ask.begin()
        metrics = self._ask("gpm", self._gpm_metrics)
        memory = self._ask("memory", self._library.device_get_memory_info_v2)
        rates = None
        if self._gpu_instance is None:
            rates = self._ask("utilization", self._library.device_get_utilization_rates)
        busy_ratio, busy_source = self._busy_ratio(metrics, rates)
        used_bytes, total_bytes = _memory_bytes(memory)
        return Use(
            busy_ratio=busy_ratio,
            busy_source=busy_source,
            memory_busy_ratio=None if rates is None else _ratio(rates[1]),
            memory_used_bytes=used_bytes,
            memory_total_bytes=total_bytes,
            samples=tuple(gpm_samples(metrics)) if metrics else (),
        )

    def processes(self, total_bytes: int | None) -> tuple[ProcessReading, ...] | None:
        """Who holds the device, with each one's share of the SMs since the last call.

        Two lists of NVML make it: inside a container the first may lack processes, or give
        their pids of another namespace, that the second has.
        """
        running = self._ask("processes", self._library.device_get_compute_running_processes_v3)
        if running is None:
            return None
        samples = None
        if self._gpu_instance is None:
            samples = self._ask("process_utilization", self._process_samples)
        sm_ratio = _sm_ratio_by_pid(samples or ())
        held = {
            process.pid: process.memory_bytes for process in running if 0 < process.pid <= _MOST_PID
        }
        told = self._gpu_instance is None and "process_utilization" not in self._ask.unsupported
        idle = 0.0 if told else None
        return tuple(
            ProcessReading(
                pid=pid,
                memory_bytes=_plausible(held.get(pid), total_bytes),
                sm_ratio=sm_ratio.get(pid, idle),
            )
            for pid in sorted(held.keys() | sm_ratio.keys())
        )

    def close(self) -> None:
        """Give back what must not outlive NVML."""
        if self._gpm is not None:
            try:
                self._gpm.close()
            except NvmlError:
                # The device is lost, and its samples with it.
                return
            finally:
                self._gpm = None

    def _busy_ratio(
        self, metrics: list[float | None] | None, rates: tuple[int, int] | None
    ) -> tuple[float | None, str | None]:
        """By the best source that answered. The first reading has no time before it to cover."""
        active = metrics[_ACTIVE_PLACE] if metrics else None
        if active is not None and active >= 0:
            return min(1.0, active / _PERCENT), "gpm"
        if self._gpu_instance is not None:
            return None, None
        if self.activity_source == "utilization_samples":
            percents = self._ask("utilization_samples", self._utilization_samples)
            if percents:
                return sum(percents) / len(percents) / _PERCENT, "utilization_samples"
        busy = None if rates is None else _ratio(rates[0])
        return busy, None if busy is None else "utilization"

    def _gpm_metrics(self, _handle: NvmlHandle) -> list[float | None]:
        if self._gpm is None:
            if not self._library.gpm_query_device_support(self._gpu):
                self._ask.unsupported.add("gpm")
                return []
            self._gpm = self._library.gpm_query(self._gpu, tuple(GPM_METRICS), self._gpu_instance)
        now_ns = self._clock.monotonic_ns()
        if self._metrics and now_ns - self._metrics_ns < GPM_LEAST_NS:
            return self._metrics
        metrics = self._gpm.read()
        self._metrics, self._metrics_ns = list(metrics or ()), now_ns
        return self._metrics

    def _utilization_samples(self, handle: NvmlHandle) -> list[int]:
        if self._busy is None:
            self._busy = self._library.device_sample_query(handle, SAMPLES_UTILIZATION)
            self._busy.read()  # what the driver kept from before belongs to no reading
            return []
        return [percent for percent in self._busy.read() if 0 <= percent <= _PERCENT]

    def _process_samples(self, handle: NvmlHandle) -> tuple[ProcessSample, ...]:
        """Samples that are new; rows left over from long ago, and impossible ones, are dropped."""
        seen_us = self._last_seen_us
        try:
            samples = self._library.device_get_process_utilization(handle, seen_us)
        except NvmlEmpty:
            return ()
        new = tuple(
            sample
            for sample in samples
            if sample.timestamp_us > seen_us
            and 0 < sample.pid <= _MOST_PID
            and 0 <= sample.sm_percent <= _PERCENT
        )
        self._last_seen_us = max((sample.timestamp_us for sample in new), default=seen_us)
        return new


_ACTIVE_PLACE: Final = list(GPM_METRICS).index(GPM_ACTIVE)


def _sm_ratio_by_pid(samples: tuple[ProcessSample, ...]) -> dict[int, float]:
    """The mean share of each process over its samples."""
    percents: dict[int, list[int]] = {}
    for sample in samples:
        percents.setdefault(sample.pid, []).append(sample.sm_percent)
    return {pid: sum(values) / (_PERCENT * len(values)) for pid, values in percents.items()}


def _ratio(percent: int) -> float | None:
    """A share in 0..1; None for what cannot be one."""
    return percent / _PERCENT if 0 <= percent <= _PERCENT else None


def _memory_bytes(memory: tuple[int, int] | None) -> tuple[Bytes | None, Bytes | None]:
    """Used and total; a use above the total is garbage of a mismatched structure."""
    if memory is None:
        return None, None
    used, total = memory
    return (Bytes(used) if used <= total else None), Bytes(total)


def _plausible(used_bytes: int | None, total_bytes: int | None) -> Bytes | None:
    """A process cannot hold more than the device has."""
    if used_bytes is None or (total_bytes is not None and used_bytes > total_bytes):
        return None
    return Bytes(used_bytes)
