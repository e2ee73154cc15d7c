"""What the collectors have shown of this host's devices so far, and what they cost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from apportion.agent.pipeline.binding import Node
from apportion.collectors.collector import WHOLE
from apportion.core.allocation import Pod
from apportion.core.ids import is_part
from apportion.core.units import NS_PER_MINUTE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

    from apportion.agent.pipeline.processes import Processes
    from apportion.collectors.collector import Batch, DeviceFailure
    from apportion.core.allocation import Allocation
    from apportion.core.ids import DeviceId
    from apportion.core.reading import DeviceInfo, Reading
    from apportion.cost.rate import PriceTable, Rate

_LOG: Final = logging.getLogger(__name__)
SILENT_NS: Final = 5 * NS_PER_MINUTE
KUBELET: Final = "kubernetes"
"""The collector that asks it."""


class Seen:
    """Static facts, the latest reading and the holders of every device, owned or not."""

    def __init__(self, prices: PriceTable) -> None:
        self._prices = prices
        self._shares: dict[DeviceId, Fraction] = {}
        self.infos: dict[DeviceId, DeviceInfo] = {}
        self.latest: dict[DeviceId, Reading] = {}
        self._failures: dict[DeviceId | int, tuple[int, DeviceFailure]] = {}
        self._allocations: dict[str, tuple[int, tuple[Allocation, ...]]] = {}

    def take(self, batch: Batch, source: str = "", now_ns: int = 0) -> None:
        """What one collection of `source` brought at `now_ns` (host monotonic)."""
        if batch.allocations is not None:
            self._allocations[source] = (now_ns, batch.allocations)
        for ended in batch.ended:
            self.infos.pop(ended.device, None)
            self.latest.pop(ended.device, None)
        for info in batch.devices:
            if info.device not in self.infos:
                _say(info)
            self.infos[info.device] = info
        for sources in batch.sources:
            self._shares[sources.device] = sources.share
        for reading in batch.readings:
            known = self.infos.get(reading.device)
            if known is not None:
                self.latest[reading.device] = reading
                for key, (_, failure) in list(self._failures.items()):
                    if self._concerns(failure, known):
                        del self._failures[key]
        for failure in batch.failures:
            self._failures[failure.device or failure.index] = (now_ns, failure)

    def failures(self, since_ns: int) -> list[DeviceFailure]:
        """What was said since then (host monotonic) to fail, and was not read again."""
        return [failure for told_ns, failure in self._failures.values() if told_ns >= since_ns]

    def failure_of(self, info: DeviceInfo, since_ns: int) -> DeviceFailure | None:
        """Such a failure of a device, or of the GPU that it is a part of."""
        failures = self.failures(since_ns)
        return next((each for each in failures if self._concerns(each, info)), None)

    def _concerns(self, failure: DeviceFailure, info: DeviceInfo) -> bool:
        if failure.device not in self.infos and is_part(info.device):
            return failure.index == info.index  # that of a GPU that MIG has cut
        return failure.concerns(info)

    def share_of(self, device_name: str) -> Fraction:
        """The container's share of a device by that name; 1 outside of one."""
        shares = (
            self._shares[info.device]
            for info in self.infos.values()
            if info.name == device_name and info.device in self._shares
        )
        return next(shares, WHOLE)

    def rates_of(self, device_name: str) -> list[Rate]:
        """The price table's rates of a device, for the container's share of it."""
        share = self.share_of(device_name)
        return [rate.for_share(share) for rate in self._prices.rates_of(device_name)]

    def pids(self, device: DeviceId) -> frozenset[int] | None:
        """Processes that compute on a device, by its last reading; None where it cannot tell."""
        reading = self.latest.get(device)
        if reading is None or reading.processes is None:
            return None
        return frozenset(process.pid for process in reading.processes)

    def holders(self, device: DeviceId, now_ns: int) -> list[str]:
        """Who was given the device by a scheduler, once for each replica of it.

        A source that has been silent for `SILENT_NS` is no longer believed: its pods may be gone.
        """
        info = self.infos.get(device)
        names = {device, str(info.index)} if info is not None and info.index >= 0 else {device}
        given = self._given(now_ns)
        return sorted(allocation.owner for allocation in given if allocation.device in names)

    def pod_of(self, device: DeviceId, now_ns: int) -> Pod | None:
        """The pod that alone was given a device."""
        owners = set(self.holders(device, now_ns))
        return Pod.of_owner(owners.pop()) if len(owners) == 1 else None

    def pods(self, now_ns: int) -> set[Pod] | None:
        """All pods that were given devices; None where no kubelet has ever answered."""
        if KUBELET not in self._allocations:
            return None
        owners = {Pod.of_owner(allocation.owner) for allocation in self._given(now_ns)}
        return {pod for pod in owners if pod is not None}

    def _given(self, now_ns: int) -> list[Allocation]:
        return [
            allocation
            for told_ns, allocations in self._allocations.values()
            if now_ns - told_ns <= SILENT_NS
            for allocation in allocations
        ]

    def node(
        self, processes: Processes, *, numbered: bool, unread: Iterable[DeviceInfo] = ()
    ) -> Node:
        """What binding needs to know of the host. `numbered`: see `Node`.

        `unread` devices have their places although they were never read.
        """
        gpus = sorted(
            (info for info in (*self.infos.values(), *unread) if info.source != "cpu"),
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
            numbered,
        )


def _say(info: DeviceInfo) -> None:
    level, which = (logging.WARNING, "SIMULATED ") if info.simulated else (logging.INFO, "")
    _LOG.log(level, "%sdevice %d: %s, %s", which, info.index, info.name, info.device)
