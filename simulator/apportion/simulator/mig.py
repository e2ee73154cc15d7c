"""MIG: a device that is cut into instances, each with compute slices and memory of its own."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from apportion.simulator.profiles import Profile

COMPUTE_SLICES: Final = 7
MEMORY_SLICES: Final = 8


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One instance with one compute instance, and how busy it has been.

    `busy_ppm_ns` is its utilisation (ppm) integrated up to `at_ns`; from then on it is
    `utilization_ppm`. `gpu_instance` ids are given again once they are free, as real ones are.
    """

    profile: str
    uuid: str
    gpu_instance: int
    compute_slices: int
    multiprocessors: int
    memory_total_bytes: int
    at_ns: int
    utilization_ppm: int = 0
    busy_ppm_ns: int = 0

    def at(self, at_ns: int) -> MigInstance:
        """The same at a later time."""
        busy_ppm_ns = self.busy_ppm_ns + self.utilization_ppm * (at_ns - self.at_ns)
        return replace(self, at_ns=at_ns, busy_ppm_ns=busy_ppm_ns)

    def with_utilization(self, utilization_ppm: int, at_ns: int) -> MigInstance:
        """The same, used by `utilization_ppm` from `at_ns` on."""
        return replace(self.at(at_ns), utilization_ppm=utilization_ppm)


def instances(
    profile: Profile,
    gpu_uuid: str,
    names: Sequence[str],
    at_ns: int,
    before: Sequence[MigInstance] = (),
) -> tuple[MigInstance, ...]:
    """The instances of a device with profiles of these names, such as 3g.40gb.

    Those of `before` that have the same profile at the same place stay what they are.

    Raises:
        ValueError: the model has no MIG or no such profile, or they do not fit.
    """
    if not profile.mig_profiles:
        raise ValueError(f"{profile.name} has no MIG")
    unknown = [name for name in names if name not in profile.mig_profiles]
    if unknown:
        known = ", ".join(profile.mig_profiles)
        raise ValueError(f"{profile.name} has no MIG profile {unknown[0]!r}; it has {known}")
    sizes = [profile.mig_profiles[name] for name in names]
    compute, memory = (sum(size) for size in zip(*sizes, strict=True)) if sizes else (0, 0)
    if compute > COMPUTE_SLICES or memory > MEMORY_SLICES:
        raise ValueError(
            f"{', '.join(names)}: {compute} compute and {memory} memory slices; a device has "
            f"{COMPUTE_SLICES} and {MEMORY_SLICES}"
        )
    stay = [
        place < len(before) and before[place].profile == name for place, name in enumerate(names)
    ]
    taken = {before[place].gpu_instance for place, stays in enumerate(stay) if stays}
    made: list[MigInstance] = []
    for place, (name, (compute, memory)) in enumerate(zip(names, sizes, strict=True)):
        if stay[place]:
            made.append(before[place])
            continue
        number = next(each for each in range(1, COMPUTE_SLICES + 1) if each not in taken)
        taken.add(number)
        identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{gpu_uuid}/{name}/{number}")
        made.append(
            MigInstance(
                profile=name,
                uuid=f"MIG-{identity}",
                gpu_instance=number,
                compute_slices=compute,
                multiprocessors=profile.multiprocessors * compute // MEMORY_SLICES,
                memory_total_bytes=profile.memory_total_bytes // MEMORY_SLICES * memory,
                at_ns=at_ns,
            )
        )
    return tuple(made)
