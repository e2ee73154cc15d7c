"""What the collectors have shown of this host's devices so far, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from apportion.agent.pipeline.binding import Node

if TYPE_CHECKING:
    from fractions import Fraction

    from apportion.agent.pipeline.processes import Processes
    from apportion.collectors.collector import Batch
    from apportion.core.ids import DeviceId
    from apportion.core.reading import DeviceInfo, Reading
    from apportion.cost.rate import PriceTable, Rate


class Seen:
    """Static facts and the latest reading of every device, owned or not."""

    def __init__(self, prices: PriceTable) -> None:
        self._prices = prices
        self._shares: dict[DeviceId, Fraction] = {}
        self.infos: dict[DeviceId, DeviceInfo] = {}
        self.latest: dict[DeviceId, Reading] = {}

    def take(self, batch: Batch) -> None:
        """What one collection brought."""
        for info in batch.devices:
            self.infos[info.device] = info
        for sources in batch.sources:
            self._shares[sources.device] = sources.share
        for reading in batch.readings:
            if reading.device in self.infos:
                self.latest[reading.device] = reading

    def rates_of(self, device_name: str) -> list[Rate]:
        """The price table's rates of a device, for the container's share of it."""
        share = next(
            (
                self._shares[info.device]
                for info in self.infos.values()
                if info.name == device_name and info.device in self._shares
            ),
            None,
        )
        rates = [rate for rate in self._prices.rates if rate.device_name == device_name]
        if share is None or share == 1:
            return rates
        return [replace(rate, units_per_hour=rate.units_per_hour * share) for rate in rates]

    def pids(self, device: DeviceId) -> frozenset[int] | None:
        """Processes that compute on a device, by its last reading; None where it cannot tell."""
        reading = self.latest.get(device)
        if reading is None or reading.processes is None:
            return None
        return frozenset(process.pid for process in reading.processes)

    def node(self, processes: Processes) -> Node:
        """What binding needs to know of the host."""
        gpus = sorted(
            (info for info in self.infos.values() if info.source != "cpu"),
            key=lambda info: info.index,
        )
        cpu = next((info.device for info in self.infos.values() if info.source == "cpu"), None)
        return Node(
            [info.device for info in gpus],
            cpu,
            {info.device: self.pids(info.device) for info in gpus},
            processes.parent_of,
            processes.job_of,
            processes.uid_of,
        )
