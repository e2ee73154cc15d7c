"""The `dcgm` collector: GPUs by way of dcgm-exporter, for where NVML cannot be reached.

It is a source of devices, as NVML is, and never runs beside it: one device's values have one
source. Where both could be read, NVML is: its values are younger than a second, it counts XID
errors one by one, and it tells which processes compute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from apportion.collectors.collector import Batch, DeviceFailure, DeviceSources, FailureKind
from apportion.collectors.dcgm_fields import WANTED
from apportion.collectors.dcgm_gpu import DcgmGpu, GpuTold
from apportion.collectors.dcgm_rows import GpuRows, gpu_rows
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.collectors.scrape import CACHE_NS, GRACE_NS, Complaints, Scrape, Scraped, look_at_all
from apportion.collectors.target import parse_targets
from apportion.core.clock import Clock
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.sample import Sample

PORT: Final = 9400
HOST_VARIABLES: Final = ("HOST_IP", "NODE_IP")
"""Where a pod's manifest may put the address of its node (`status.hostIP`)."""
_GAP_PERIODS: Final = 3


def discovered(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Where an exporter is looked for that nobody named: on the pod's node, then on this host."""
    on_node = (f"http://$({name}):{PORT}" for name in HOST_VARIABLES if variables.get(name))
    return (*on_node, f"http://localhost:{PORT}")


@dataclass(slots=True)
class _Known:
    """A GPU that was seen: its state, which target shows it, and its devices by now."""

    gpu: DcgmGpu
    target: str = ""
    look: Scraped | None = None
    devices: tuple[DeviceInfo, ...] = ()


class Dcgm:
    """Scrapes all of `dcgm_urls`; without any, of the likely places the first that answers."""

    def __init__(self, options: CollectorOptions, clock: Clock) -> None:
        """Raises `ConfigError` where a URL is malformed."""
        variables = os.environ if options.environment is None else options.environment
        self._clock = clock
        self._patience_ns = options.deadline_ns + GRACE_NS
        self._longest_gap_ns = _GAP_PERIODS * options.period_ns
        self._is_named = bool(options.dcgm_urls)
        self._scrapes = [
            Scrape(
                target,
                clock,
                WANTED,
                deadline_ns=options.deadline_ns,
                cache_ns=min(CACHE_NS, options.period_ns // 8),
                first_pause_ns=options.period_ns,
            )
            for target in parse_targets(options.dcgm_urls or discovered(variables), variables)
        ]
        self._known: dict[str, _Known] = {}
        self._infos: dict[DeviceId, DeviceInfo] = {}
        self._sources: dict[DeviceId, DeviceSources] = {}
        self._complaints = Complaints(self.name)

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "dcgm"

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """The readings that are new. A GPU that two exporters show is read from the first.

        Raises:
            SourceLost: no exporter answered, or none of those that did shows a GPU, or they have
                long shown nothing new.
        """
        looks = look_at_all(self._scrapes, self._clock, self._patience_ns)
        errors: dict[str, str] = {}
        told: dict[str, GpuTold] = {}
        health: list[Sample] = []
        for scrape, scraped in zip(self._scrapes, looks, strict=True):
            target = scrape.target.name
            health += scrape.samples(self.name, scraped)
            gpus = {} if scraped.text is None else gpu_rows(scraped.text)
            if not gpus:
                errors[target] = scraped.error or f"{target} shows no GPU: is it a dcgm-exporter?"
            for uuid, gpu in gpus.items():
                if uuid not in told:
                    told[uuid] = self._read(gpu, scraped, target)
        stale = self._stale(told)
        if not told or len(stale) == len(told):
            kind = FailureKind.STALE if told else None
            # Places that nobody has named are guesses: that nothing is there is no failure.
            known = health if self._is_named else ()
            raise self._complaints.all_of({**errors, **stale}, known, kind)
        if not self._is_named:
            self._scrapes = [each for each in self._scrapes if each.target.name not in errors][:1]
            errors = {}
        self._complaints.say(errors)
        return Batch(
            readings=tuple(reading for one in told.values() for reading in one.readings),
            devices=tuple(self._new_infos(told)),
            failures=tuple(self._failures(told, errors, stale)),
            sources=tuple(self._new_sources(told)),
            samples=(*health, *(sample for one in told.values() for sample in one.samples)),
        )

    def close(self) -> None:
        """Nothing is held open."""

    def _read(self, gpu: GpuRows, scraped: Scraped, target: str) -> GpuTold:
        known = self._known.get(gpu.uuid)
        if known is None:
            known = self._known[gpu.uuid] = _Known(DcgmGpu(gpu.uuid, self._longest_gap_ns))
        if known.look is scraped:
            return GpuTold()
        told = known.gpu.read(gpu, scraped.time_ns)
        known.target, known.look = target, scraped
        known.devices = told.devices or known.devices
        return told

    def _new_infos(self, told: Mapping[str, GpuTold]) -> Iterator[DeviceInfo]:
        for one in told.values():
            for info in one.devices:
                if self._infos.get(info.device) != info:
                    self._infos[info.device] = info
                    yield info

    def _new_sources(self, told: Mapping[str, GpuTold]) -> Iterator[DeviceSources]:
        for one in told.values():
            for reading in one.readings:
                sources = _sources(reading)
                if self._sources.get(reading.device) != sources:
                    self._sources[reading.device] = sources
                    yield sources

    def _stale(self, told: Mapping[str, GpuTold]) -> dict[str, str]:
        """GPUs whose values have long been the same, and why that may be."""
        unchanged = {uuid: self._known[uuid].gpu.unchanged_ns for uuid in told}
        return {
            uuid: f"{self._known[uuid].target} shows the same values of {uuid} all the time: its "
            "DCGM has stopped, or takes values less often than `dcgm_interval` says"
            for uuid, unchanged_ns in unchanged.items()
            if unchanged_ns > self._longest_gap_ns
        }

    def _failures(
        self, told: Mapping[str, GpuTold], errors: Mapping[str, str], stale: Mapping[str, str]
    ) -> Iterator[DeviceFailure]:
        """Devices that were shown before and are not now, or not as they are."""
        for uuid, known in self._known.items():
            reason, kind = stale.get(uuid), FailureKind.STALE
            if uuid not in told:
                kind = FailureKind.SILENT
                reason = errors.get(known.target) or f"{known.target} shows the GPU no longer"
            if reason is not None:
                for info in known.devices:
                    yield DeviceFailure(info.device, info.index, reason, kind)


def _sources(reading: Reading) -> DeviceSources:
    told = {
        "energy": reading.energy_source,
        "power": None if reading.power_mw is None else "dcgm",
        "utilization": reading.activity_source,
        "memory": None if reading.memory_used_bytes is None else "dcgm",
    }
    return DeviceSources(
        device=reading.device,
        energy_source=told["energy"],
        power_source=told["power"],
        activity_source=told["utilization"],
        unsupported=(*(name for name, source in told.items() if source is None), "processes"),
    )


@BUILT_IN.register("dcgm", default=False)
def make_dcgm(options: CollectorOptions, clock: Clock) -> Dcgm:
    """The collector of GPUs by way of dcgm-exporter."""
    return Dcgm(options, clock)
