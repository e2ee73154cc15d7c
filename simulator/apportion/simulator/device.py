"""One simulated device as its controller keeps it: everything that a publication is made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from apportion.simulator.faults import Switch
from apportion.simulator.health import Health
from apportion.simulator.mig import COMPUTE_SLICES, MigInstance, instances
from apportion.simulator.physics import (
    POWER_WINDOW_NS,
    PPM,
    UTILIZATION_WINDOW_NS,
    DevicePhysics,
    parts_per_million,
    power_mw,
)
from apportion.simulator.profiles import Profile
from apportion.simulator.publication import (
    Limits,
    Moment,
    ProcessLoad,
    Sample,
    check_memory,
    check_processes,
    event_reasons,
    publication,
)
from apportion.simulator.state import MAX_SAMPLES, DeviceValues

SAMPLE_NS: Final = 20_000_000
"""How often the driver keeps a sample of power and utilisation."""


class SimulatedDevice:
    """Not thread-safe; every method takes the time (host monotonic), which never goes back."""

    def __init__(self, profile: Profile, uuid: str, at_ns: int, *, energy_mj: int) -> None:
        self._profile = profile
        self._uuid = uuid
        self._physics = DevicePhysics.start(profile, at_ns, energy_mj=energy_mj)
        self._processes: tuple[ProcessLoad, ...] = ()
        self._memory_used_bytes = 0
        self._instances: tuple[MigInstance, ...] | None = None
        self._health = Health()
        self._storm = 0
        self._limits = Limits()
        self._samples = deque[Sample](maxlen=MAX_SAMPLES)
        self._sampled_ns = self._seen_ns = at_ns
        self._resets = 0

    def set_utilization(self, ratio: float, at_ns: int, *, instance: int | None = None) -> None:
        """From now on it is busy for `ratio` of the time, or one of its MIG instances is.

        Raises:
            ValueError: no ratio, or no such instance.
        """
        utilization_ppm = parts_per_million(ratio)
        if self._instances is None:
            if instance is not None:
                raise ValueError(f"{self._uuid} has no MIG instance {instance}")
            self._physics = self._physics.with_utilization(utilization_ppm, at_ns)
            return
        if instance is not None and not 0 <= instance < len(self._instances):
            raise ValueError(f"{self._uuid} has {len(self._instances)} MIG instances")
        self._instances = tuple(
            each.with_utilization(utilization_ppm, at_ns) if instance in {None, place} else each
            for place, each in enumerate(self._instances)
        )
        self._follow_instances(at_ns)

    def set_processes(self, processes: Sequence[ProcessLoad]) -> None:
        """From now on it lists `processes`.

        Raises:
            ValueError: they do not fit.
        """
        check_processes(self._profile, processes, len(self._instances or ()))
        self._processes = tuple(processes)

    def set_memory(self, used_bytes: int) -> None:
        """From now on at least `used_bytes` are in use.

        Raises:
            ValueError: they do not fit.
        """
        check_memory(self._profile, used_bytes)
        self._memory_used_bytes = used_bytes

    def set_mig(self, names: Sequence[str] | None, at_ns: int) -> None:
        """From now on it has MIG instances of these profiles; None: MIG is not enabled.

        Instances whose place keeps its profile go on. The processes of the others are gone.

        Raises:
            ValueError: the profiles do not exist on this model, or do not fit.
        """
        if names is None:
            made = None
        else:
            before = self._instances or ()
            made = instances(self._profile, self._uuid, names, at_ns, before)
        kept = {each.uuid for each in self._instances or ()} & {each.uuid for each in made or ()}
        self._processes = tuple(
            each
            for each in self._processes
            if each.instance is not None
            and self._instances is not None
            and self._instances[each.instance].uuid in kept
        )
        self._instances = made
        self._follow_instances(at_ns)

    @property
    def instance_uuids(self) -> tuple[str, ...]:
        """The UUIDs of its MIG instances, by their place."""
        return tuple(each.uuid for each in self._instances or ())

    def follow(self, processes: Sequence[ProcessLoad], at_ns: int) -> None:
        """Take over what a mirror saw, as far as the device's memory reaches."""
        room_bytes = self._profile.memory_total_bytes - self._profile.memory_reserved_bytes
        fitting: list[ProcessLoad] = []
        for process in processes:
            used_bytes = min(process.used_bytes, room_bytes)
            room_bytes -= used_bytes
            fitting.append(ProcessLoad(process.pid, used_bytes, process.utilization_ratio))
        self.set_processes(fitting)
        self.set_utilization(min(1.0, sum(each.utilization_ratio for each in fitting)), at_ns)

    def energy_mj(self, at_ns: int) -> int:
        """The energy counter at its last tick."""
        return self._physics.published_energy_mj(at_ns)

    def advance(self, faults: Mapping[Switch, int], resets: int, moment: Moment) -> None:
        """Bring about what the faults that are in force do up to this moment."""
        at_ns = moment.at_ns
        if resets != self._resets:
            self._resets = resets
            self._reset(at_ns)
        busy_ppm = self._physics.average_utilization_ppm(at_ns)
        power_now_mw = power_mw(self._profile, self._physics.at(at_ns).utilization_ppm)
        # What was so up to now counts; what has been switched on begins now.
        self._health = self._health.after(
            at_ns - self._seen_ns,
            storm=self._storm,
            reasons=event_reasons(self._profile, busy_ppm, power_now_mw, self._limits),
        )
        self._storm = faults.get(Switch.ECC_STORM, 0)
        self._limits = Limits(
            Switch.THERMAL in faults, Switch.POWER_CAP in faults, Switch.WRAP in faults
        )
        self._seen_ns = at_ns
        self._sample(moment)

    def values(self, moment: Moment, *, has_peers: bool) -> DeviceValues:
        """What a reader sees at this moment."""
        held_bytes = sum(process.used_bytes for process in self._processes)
        return publication(
            self._physics,
            moment,
            processes=self._processes,
            instances=self._instances,
            samples=self._samples,
            health=self._health,
            limits=self._limits,
            memory_used_bytes=max(self._memory_used_bytes, held_bytes),
            has_peers=has_peers,
        )

    def _follow_instances(self, at_ns: int) -> None:
        """Instances are parts of the device: its own use is the sum of theirs."""
        slices_ppm = sum(
            each.utilization_ppm * each.compute_slices for each in self._instances or ()
        )
        utilization_ppm = min(PPM, slices_ppm // COMPUTE_SLICES)
        self._physics = self._physics.with_utilization(utilization_ppm, at_ns)

    def _reset(self, at_ns: int) -> None:
        """As after a reset of the device or a reload of the driver: counters begin anew."""
        utilization_ppm = self._physics.at(at_ns).utilization_ppm
        started = DevicePhysics.start(self._profile, at_ns)
        self._physics = started.with_utilization(utilization_ppm, at_ns)
        self._health = self._health.reset()

    def _sample(self, moment: Moment) -> None:
        """Keep what the driver would have sampled since the last time, as far as it is known."""
        window_ns = POWER_WINDOW_NS - UTILIZATION_WINDOW_NS
        known_ns = max(self._physics.origin_ns, moment.at_ns - window_ns)
        due_ns = max(self._sampled_ns + SAMPLE_NS, known_ns)
        while due_ns <= moment.at_ns:
            self._samples.append(
                Sample(
                    (moment.realtime_ns - (moment.at_ns - due_ns)) // 1_000,
                    power_mw(self._profile, self._physics.at(due_ns).utilization_ppm),
                    round(self._physics.average_utilization_ppm(due_ns) * 100 / PPM),
                )
            )
            self._sampled_ns = due_ns
            due_ns += SAMPLE_NS
