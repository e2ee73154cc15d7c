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
    from apportion.core.ids import DeviceId, RingId


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
        self._wrong: dict[RingId, str] = {}

    def bind(self, rings: Iterable[FollowedRing], now_ns: int) -> None:
        """Bind those whose devices are known at `now_ns` (node time), or known better."""
        unread = in_place(self._settlement, self._seen)
        node = self._seen.node(self._processes, numbered=self._numbered, unread=unread)
        rings = list(rings)
        living = {ring.identity.ring for ring in rings if not ring.finished}
        for gone in self._wrong.keys() - living:
            del self._wrong[gone]
        for ring in rings:
            if ring.holds_nothing:
                continue
            binding = None if ring.finished and ring.state.bindings else bind(ring.says, node)
            if binding is None or not binding.devices:
                continue
            self._locks.name(binding.devices)
            keys = tuple(self._device_key(device) for device in binding.devices)
            self._settlement.bound(ring.state, keys, binding.source, now_ns)
            self._compare(ring, len(keys), is_host=binding.source == "cpu")

    @property
    def complaint(self) -> str | None:
        """A sentence on the servers that do not have as many devices as they compute on."""
        return "; ".join(sorted(set(self._wrong.values()))) or None

    def _compare(self, ring: FollowedRing, found: int, *, is_host: bool) -> None:
        engines = ring.state.engines
        wrong = None if engines is None or is_host else engines.wrong_count(found)
        if wrong is None or ring.finished:
            self._wrong.pop(ring.identity.ring, None)
        else:
            name = f"workload {ring.identity.workload!r}, pid {ring.state.pid}"
            self._wrong[ring.identity.ring] = f"{name}: {wrong}"

    def _device_key(self, device: DeviceId) -> int:
        info = self._seen.infos.get(device) or self._settlement.devices[device].info
        return self._settlement.metered.key(info)
