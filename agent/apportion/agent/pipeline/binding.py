"""Which devices a ring's process used: the first source that knows, and why it is believed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.ids import DeviceId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_GENERATIONS: Final = 6


class Node(NamedTuple):
    """What the node knows about its devices and who computes on them.

    `devices`: all, in NVML's order. `numbered`: a number stands for a place in that order, which
    it does not where they are a node's and the ring is a pod's. `pids_by_device`: compute processes
    by host pid, None where the source cannot tell. `parent_of`, `job_of` (its process group) and
    `uid_of` give None for a pid that is gone.
    """

    devices: Sequence[DeviceId]
    cpu_device: DeviceId | None
    pids_by_device: Mapping[DeviceId, frozenset[int] | None]
    parent_of: Callable[[int], int | None]
    job_of: Callable[[int], int | None]
    uid_of: Callable[[int], int | None]
    numbered: bool = True


class RingSays(NamedTuple):
    """What a ring's identity and words say about its devices."""

    pid: int
    uid: int
    local_rank: int | None
    devices: Sequence[str]
    reported: Sequence[str]
    hints: Mapping[str, str]
    in_order: bool = False
    """Its engines take the devices in the order in which the hints list them."""


class Binding(NamedTuple):
    """The ordered devices, which source named them, and what was refused on the way."""

    devices: tuple[DeviceId, ...]
    source: str
    refused: str | None = None


def bind(ring: RingSays, node: Node) -> Binding | None:
    """The devices of a ring, or None while no source knows.

    Sources in order: what the user said, what the framework reported, NVML's processes (the
    ring's own, those below it, those below its own parent), the environment's hints; a host
    whose device is its CPU binds everything to that.
    """
    refused: str | None = None
    for source, names in (("user", ring.devices), ("framework", ring.reported)):
        if not names:
            continue
        found = [_named(name, node, node.cpu_device) for name in names]
        devices = tuple(device for device in found if device is not None)
        if len(devices) != len(found):
            refused = f"{source}: unknown device"
            continue
        strangers = [device for device in devices if not _allowed(ring, device, node)]
        if strangers:
            refused = f"{source}: {strangers[0]} has processes, none of them of uid {ring.uid}"
            continue
        return Binding(devices, source, refused)
    devices = _by_process(ring, node)
    if devices:
        if ring.in_order:
            listed = _by_hint(ring, node)
            if set(devices) <= set(listed):
                devices = tuple(sorted(devices, key=listed.index))
        return Binding(devices, "nvml_process", refused)
    if node.cpu_device is not None and not node.devices:
        return Binding((node.cpu_device,), "cpu", refused)
    devices = _by_hint(ring, node)
    if devices and all(_allowed(ring, device, node) for device in devices):
        return Binding(devices, "environment", refused)
    return None


def _named(name: str, node: Node, cpu: DeviceId | None) -> DeviceId | None:
    """A UUID, a UUID's unambiguous beginning, or an index in NVML's order."""
    if name in {"cpu", cpu}:
        return cpu
    if name.isdigit():
        return _place(name, node.devices) if node.numbered else None
    if name in node.devices:
        return DeviceId(name)
    matches = [device for device in node.devices if device.startswith(name)]
    return matches[0] if len(matches) == 1 else None


def _place(number: str, devices: Sequence[DeviceId]) -> DeviceId | None:
    return devices[int(number)] if int(number) < len(devices) else None


def _allowed(ring: RingSays, device: DeviceId, node: Node) -> bool:
    """A device whose known processes all belong to others cannot be the ring's."""
    pids = node.pids_by_device.get(device)
    if not pids or ring.uid == 0:
        return True
    owners = {node.uid_of(pid) for pid in pids}
    return None in owners or ring.uid in owners


def _by_process(ring: RingSays, node: Node) -> tuple[DeviceId, ...]:
    def used(belongs: Callable[[int], bool]) -> tuple[DeviceId, ...]:
        return tuple(
            device
            for device in node.devices
            if any(belongs(pid) for pid in node.pids_by_device.get(device) or ())
        )

    own = used(lambda pid: pid == ring.pid)
    if own:
        return own
    # A server's engines are its children, and with several devices each has workers of its own.
    above = {
        pid: frozenset(_ancestors(pid, node))
        for pids in node.pids_by_device.values()
        for pid in pids or ()
    }
    below = used(lambda pid: ring.pid in above[pid])
    if below:
        return below
    parent, job = node.parent_of(ring.pid), node.job_of(ring.pid)
    if parent is None or parent <= 1 or ring.local_rank is not None:
        return ()
    # An engine's workers share its process group; jobs of one shell share only the parent.
    return used(lambda pid: parent in above[pid] and node.job_of(pid) == job)


def _ancestors(pid: int, node: Node) -> Iterator[int]:
    """The parent of a process, its parent, and so on; a few: who is asked may be out of date."""
    for _ in range(_GENERATIONS):
        parent = node.parent_of(pid)
        if parent is None or parent <= 1:
            return
        yield parent
        pid = parent


def _by_hint(ring: RingSays, node: Node) -> tuple[DeviceId, ...]:
    """By the environment: what the container was given, and what CUDA was told to use of that."""
    given = _listed(ring.hints.get("NVIDIA_VISIBLE_DEVICES"), lambda name: _named(name, node, None))
    told = ring.hints.get("CUDA_VISIBLE_DEVICES")
    if told is None and given is None:
        return ()
    inside = [device for device in node.devices if device in given] if given else None

    def used(name: str) -> DeviceId | None:
        # CUDA counts within its container, in the order of the devices and not of the list
        if name.isdigit() and inside is not None:
            return _place(name, inside)
        return _named(name, node, None)

    chosen = _listed(told, used) if told else given
    if not chosen or ring.local_rank is None:
        return tuple(chosen or ())
    if len(chosen) == 1:
        return (chosen[0],)
    return (chosen[ring.local_rank],) if 0 <= ring.local_rank < len(chosen) else ()


def _listed(text: str | None, device_of: Callable[[str], DeviceId | None]) -> list[DeviceId] | None:
    """The devices of a list up to the first that is unknown, as CUDA reads it; None without one."""
    if text is None or text in {"all", "void", "none", ""}:
        return None
    chosen: list[DeviceId] = []
    for name in re.split(r"\s*,\s*", text.strip()):
        device = device_of(name)
        if device is None:
            break
        chosen.append(device)
    return chosen
