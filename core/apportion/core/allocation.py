"""Who was given a device by the cluster's scheduler, whether or not he uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from apportion.core.ids import DeviceId

_POD: Final = "pod:"


class Pod(NamedTuple):
    """A pod of Kubernetes."""

    namespace: str
    name: str

    @classmethod
    def of_owner(cls, owner: str | None) -> Pod | None:
        """The pod that `pod:NAMESPACE/NAME` stands for; None for any other owner."""
        if owner is None or not owner.startswith(_POD):
            return None
        namespace, slash, name = owner.removeprefix(_POD).partition("/")
        return cls(namespace, name) if slash and namespace and name else None


@dataclass(frozen=True, slots=True)
class Allocation:
    """A device, or a replica of a shared one, that belongs to `owner` for now.

    `owner` is `pod:NAMESPACE/NAME` or `slurm:JOB`. A time-sliced device is allocated once for each
    replica, so that what all owners pay together is the device.
    """

    device: DeviceId
    owner: str
    container: str = ""
