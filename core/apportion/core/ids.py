"""Identities. Each is a distinct type, so that a run cannot be passed for an attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

DeviceId = NewType("DeviceId", str)
"""NVML UUID (`GPU-...`, `MIG-...`), `<uuid>/unallocated`, `<uuid>/<profile>/<id>` of a MIG instance
whose own UUID the source does not show, or `cpu:<host>`."""
RingId = NewType("RingId", str)
"""32 hexadecimal digits, random for each ring file."""
RunId = NewType("RunId", str)
"""One logical training job; it survives restarts."""
AttemptId = NewType("AttemptId", str)
"""One execution of a run."""
TraceId = NewType("TraceId", str)
"""32 hexadecimal digits, W3C trace context."""


@dataclass(frozen=True, slots=True, order=True)
class SpanId:
    """A span of one ring: its number counts from 1 in the process that wrote it."""

    ring: RingId
    number: int

    def __str__(self) -> str:
        return f"{self.ring}/{self.number}"


@dataclass(frozen=True, slots=True, order=True)
class DeviceGroup:
    """The ordered devices that one engine or rank set works on."""

    devices: tuple[DeviceId, ...]

    def __str__(self) -> str:
        return "+".join(self.devices)


def is_part(device: str) -> bool:
    """Is it a MIG instance, or what MIG has left over of a GPU?"""
    return device.startswith("MIG-") or "/" in device
