"""One meter for each device of a host: the agent that holds the device's lock."""

from __future__ import annotations

import fcntl
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from apportion.agent.shipping.leases import Leases
    from apportion.core.ids import DeviceId
    from apportion.core.reading import DeviceInfo


class DeviceLocks:
    """flock() on a file per device; the kernel lets go when this process ends, however it ends.

    `only` restricts the agent to the devices that its config names; None means all. With
    `pod`, a device is this agent's from when a ring of its pod names it, for good. `leases` are
    those of a shared ledger, where agents of other hosts, or without a common directory, have
    their say, too.
    """

    def __init__(
        self,
        directory: Path,
        *,
        only: Collection[str] | None = None,
        pod: bool = False,
        leases: Leases | None = None,
    ) -> None:
        self._directory = directory
        self._leases = leases
        self._only = None if only is None else frozenset(only)
        self._named: set[DeviceId] | None = set() if pod and only is None else None
        self._held: dict[DeviceId, int] = {}
        self._taken: set[DeviceId] = set()
        self.reason: dict[DeviceId, str] = {}

    def name(self, devices: Collection[DeviceId]) -> None:
        """Rings of the pod are bound to these devices."""
        if self._named is not None:
            self._named.update(devices)

    def own(self, device: DeviceId) -> bool:
        """True if this agent meters `device` now; tries again at every call."""
        if not self._lock(device):
            return False
        if self._leases is None or self._leases.own(device):
            self.reason.pop(device, None)
            return True
        self.reason[device] = self._leases.reason(device)
        return False

    def take_changed(self) -> set[str]:
        """Devices that another agent has, or may have had, by the shared ledger's word."""
        return set() if self._leases is None else self._leases.take_changed()

    def _lock(self, device: DeviceId) -> bool:
        if device in self._held:
            return True
        if self._only is not None and device not in self._only:
            self.reason[device] = "not in the configuration's `own`"
            return False
        if self._named is not None and device not in self._named:
            self.reason[device] = "no ring of this pod names it (mode: pod)"
            return False
        path = self._directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', device)}.lock"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            self.reason[device] = f"cannot open {path}: {error.strerror}"
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            self._taken.add(device)
            self.reason[device] = f"another agent on this host holds {path}"
            return False
        self._taken.discard(device)
        self._held[device] = fd
        return True

    def of_this_agent(self, infos: Mapping[DeviceId, DeviceInfo]) -> dict[DeviceId, DeviceInfo]:
        """Those that concern it: in a pod the ones that its rings name, though it may see more."""
        named = self._named
        return {d: info for d, info in infos.items() if named is None or d in named}

    @property
    def is_by_ring(self) -> bool:
        """In a pod: what its rings name is this agent's, and nothing else."""
        return self._named is not None

    @property
    def waits_for_rings(self) -> bool:
        """In a pod, before any ring has named a device."""
        return self._named is not None and not self._named

    def is_taken(self, device: DeviceId) -> bool:
        """Whether another agent was seen to hold it, and so meters it."""
        return device in self._taken

    def close(self) -> None:
        """Let go of every device."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
