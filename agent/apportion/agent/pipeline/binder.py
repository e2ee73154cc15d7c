"""Tells the settlement which devices the rings use, as far as some source knows by now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apportion.agent.pipeline.binding import bind
from apportion.agent.pipeline.unread import in_place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apportion.agent.pipeline.intake import FollowedRing
    from apportion.agent.pipeline.ownership import DeviceLocks
    from apportion.agent.pipeline.processes import Processes
    from apportion.agent.pipeline.seen import Seen
    from apportion.agent.pipeline.settlement import Settlement
    from apportion.core.ids import DeviceId


class Binder:
    """Looks at all rings again and again: what is known of their devices gets better."""

    def __init__(
        self,
        settlement: Settlement,
        seen: Seen,
        locks: DeviceLocks,
        processes: Processes,
        *,
        numbered: bool,
    ) -> None:
        """`numbered`: see `Node`."""
        self._settlement, self._seen, self._locks = settlement, seen, locks
        self._processes, self._numbered = processes, numbered

    def bind(self, rings: Iterable[FollowedRing], now_ns: int) -> None:
        """Bind those whose devices are known at `now_ns` (node time), or known better."""
        unread = in_place(self._settlement, self._seen)
        node = self._seen.node(self._processes, numbered=self._numbered, unread=unread)
        for ring in rings:
            if ring.holds_nothing:
                continue
            binding = None if ring.finished and ring.state.bindings else bind(ring.says, node)
            if binding is None or not binding.devices:
                continue
            self._locks.name(binding.devices)
            keys = tuple(self._device_key(device) for device in binding.devices)
            self._settlement.bound(ring.state, keys, binding.source, now_ns)

    def _device_key(self, device: DeviceId) -> int:
        info = self._seen.infos.get(device) or self._settlement.devices[device].info
        return self._settlement.metered.key(info)
