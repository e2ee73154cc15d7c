"""A GPU that is cut into MIG instances: which there are, and what part of it each one has.

Energy and power are measured for the whole GPU only. They go by compute slices: an instance that
has three of seven gets three sevenths, and what no instance holds is a part of its own. The parts
of a counter are functions of its value alone, so that they add up to it exactly at any time and go
on after a restart as if nothing had been.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from apportion.collectors.mig_shares import REST, rest_name
from apportion.collectors.nvml_error import NvmlError
from apportion.collectors.nvml_library import NvmlHandle, NvmlLibrary
from apportion.collectors.nvml_use import NvmlUse
from apportion.core.clock import Clock
from apportion.core.errors import DeviceLost, SourceLost
from apportion.core.ids import DeviceId

_INFIX: Final = " MIG "


@dataclass(frozen=True, slots=True)
class MigPart:
    """An instance, or the rest: `size` slices from the one numbered `first` on."""

    device: DeviceId
    name: str
    first: int
    size: int

    def of(self, amount: int, slices: int) -> int:
        """This part of an amount: of each `slices` units those that fall on its own slices.

        The parts of one layout add up to the amount, and each only rises as the amount does.
        """
        whole, left = divmod(amount, slices)
        return whole * self.size + min(max(left - self.first, 0), self.size)


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A MIG instance as NVML lists it."""

    handle: NvmlHandle
    device: DeviceId
    name: str
    gpu_instance: int
    slices: int

    @property
    def profile(self) -> str:
        """Such as 3g.40gb."""
        return self.name.partition(_INFIX)[2]


@dataclass(frozen=True, slots=True)
class MigLayout:
    """The instances of one GPU at one time, in the order of their ids, and the rest beside them."""

    gpu: DeviceId
    gpu_name: str
    slices: int
    instances: tuple[MigInstance, ...] = ()

    @property
    def parts(self) -> tuple[MigPart, ...]:
        """Every instance, then what is left where something is."""
        parts: list[MigPart] = []
        first = 0
        for instance in self.instances:
            parts.append(MigPart(instance.device, instance.name, first, instance.slices))
            first += instance.slices
        if first < self.whole:
            name = f"{self.gpu_name}{rest_name(each.profile for each in self.instances)}"
            rest = DeviceId(f"{self.gpu}/{REST}")
            parts.append(MigPart(rest, name, first, self.whole - first))
        return tuple(parts)

    @property
    def whole(self) -> int:
        """How many slices the parts are together."""
        return max(self.slices, sum(instance.slices for instance in self.instances))


class NvmlMig:
    """The MIG instances of one GPU, looked up anew at each sweep.

    A driver gives the handle of an instance that is gone to another, so that no handle is kept
    for longer. What a new instance needs of NVML is kept for as long as its UUID is listed.
    """

    def __init__(
        self,
        library: NvmlLibrary,
        clock: Clock,
        handle: NvmlHandle,
        gpu: DeviceId,
        gpu_name: str,
    ) -> None:
        self._library = library
        self._clock = clock
        self._handle = handle
        self._gpu = gpu
        self._gpu_name = gpu_name
        self._uses: dict[DeviceId, NvmlUse] = {}

    def layout(self) -> MigLayout | None:
        """The layout now; None where MIG is not enabled.

        Raises:
            NvmlError: it cannot be told; the caller goes on with what it knows.
        """
        if not self._library.device_get_mig_mode(self._handle):
            self._forget(())
            return None
        slices = self._library.device_get_number(self._handle, "MaxMigDeviceCount")
        found = [self._instance(place) for place in range(slices)]
        instances = tuple(
            sorted(
                (each for each in found if each is not None),
                key=lambda each: (each.gpu_instance, each.device),
            )
        )
        self._forget(tuple(instance.device for instance in instances))
        return MigLayout(self._gpu, self._gpu_name, max(1, slices), instances)

    def use(self, instance: MigInstance) -> NvmlUse:
        """The use of an instance of the last layout, with what is remembered of it."""
        use = self._uses.get(instance.device)
        if use is None:
            use = self._uses[instance.device] = NvmlUse(
                self._library,
                self._clock,
                instance.handle,
                gpu=self._handle,
                gpu_instance=instance.gpu_instance,
            )
        use.at(instance.handle)
        return use

    def close(self) -> None:
        """Give back what must not outlive NVML."""
        self._forget(())

    def _instance(self, place: int) -> MigInstance | None:
        """The instance at a place; None where there is none, or where it goes away just now."""
        library = self._library
        try:
            handle = library.device_get_mig_device_handle_by_index(self._handle, place)
            return MigInstance(
                handle,
                DeviceId(library.device_get_uuid(handle)),
                library.device_get_name(handle),
                library.device_get_number(handle, "GpuInstanceId"),
                library.device_get_compute_slices(handle),
            )
        except (DeviceLost, SourceLost):
            raise
        except NvmlError:
            return None

    def _forget(self, listed: tuple[DeviceId, ...]) -> None:
        for device in [each for each in self._uses if each not in listed]:
            self._uses.pop(device).close()
