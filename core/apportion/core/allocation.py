"""Who was given a device by the cluster's scheduler, whether or not he uses it."""

from __future__ import annotations

from dataclasses import dataclass

from apportion.core.ids import DeviceId


@dataclass(frozen=True, slots=True)
class Allocation:
    """A device, or a replica of a shared one, that belongs to `owner` for now.

    `owner` is `pod:NAMESPACE/NAME` or `slurm:JOB`. A time-sliced device is allocated once for each
    replica, so that what all owners pay together is the device.
    """

    device: DeviceId
    owner: str
    container: str = ""
