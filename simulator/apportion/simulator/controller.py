"""The controller: it owns a state file and publishes what its devices do.

The library only reads. So power, energy and heat go on whether or not anybody asks, as long as
this runs; when it ends, or is killed, every value stays as it was last published.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, final

from apportion.core.clock import Clock, SystemClock
from apportion.simulator import identity
from apportion.simulator.device import SimulatedDevice
from apportion.simulator.faults import FaultBoard
from apportion.simulator.mirror import Mirror
from apportion.simulator.physics import ENERGY_TICK_NS
from apportion.simulator.profiles import PROFILES, Profile
from apportion.simulator.publication import Moment, ProcessLoad
from apportion.simulator.state import NO_END
from apportion.simulator.state_file import StateFile
from apportion.simulator.state_lock import StateLock

PCIE_QUERY_NS: Final = 20_000_000
"""How long nvmlDeviceGetPcieThroughput measures, as nvml.h documents it."""


@final
class Simulator:
    """Simulated GPUs of one model, as a context manager. Methods may be called from any thread.

    Args:
        state: the file to make; a library finds it through `identity.STATE_VARIABLE`.
        profile: the model of GPU.
        devices: how many, 0 to 64.
        seed: UUIDs, serials and the counters' first values depend on it and on nothing else.
        clock: what time it is.
        pcie_query_ns: how long a call for the PCIe throughput blocks.

    Raises:
        StateTakenError: another simulator publishes in that file.
    """

    def __init__(
        self,
        state: Path,
        *,
        profile: Profile = PROFILES["h100"],
        devices: int = 1,
        seed: int = 0,
        clock: Clock | None = None,
        pcie_query_ns: int = PCIE_QUERY_NS,
    ) -> None:
        self.profile = profile
        self.uuids: Final = tuple(
            identity.device_uuid(profile, seed, index) for index in range(devices)
        )
        self._clock = SystemClock() if clock is None else clock
        self._lock = threading.RLock()
        self._mirror: Mirror | None = None
        self._closed = False
        self._origin_ns = self._clock.monotonic_ns()
        self._devices = [
            SimulatedDevice(
                profile,
                uuid,
                self._origin_ns,
                energy_mj=identity.first_energy_mj(profile, seed, index),
            )
            for index, uuid in enumerate(self.uuids)
        ]
        self._lock_file = StateLock(state, self._clock)
        try:
            self._file = StateFile(
                state,
                identity.header(profile, seed, devices, pcie_query_ns),
                [identity.facts(profile, seed, index) for index in range(devices)],
            )
            self._faults = FaultBoard(state)
        except BaseException:
            self._lock_file.close()
            raise
        self.advance()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def state(self) -> Path:
        """The state file."""
        return self._file.path

    def set_utilization(self, device: int, ratio: float, *, instance: int | None = None) -> None:
        """From now on `device` is busy for `ratio` (0 to 1) of the time.

        Where MIG is enabled that is so of its MIG instance at `instance`, or of each.
        """
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            self._devices[device].set_utilization(ratio, now_ns, instance=instance)
            self._publish(device, now_ns)

    def set_processes(self, device: int, processes: Sequence[ProcessLoad]) -> None:
        """From now on `device` lists `processes`; this does not change its utilisation."""
        with self._lock:
            self._devices[device].set_processes(processes)
            self._publish(device, self._clock.monotonic_ns())

    def set_memory(self, device: int, used_bytes: int) -> None:
        """From now on at least `used_bytes` are in use; more if the listed processes hold more."""
        with self._lock:
            self._devices[device].set_memory(used_bytes)
            self._publish(device, self._clock.monotonic_ns())

    def set_mig(self, device: int, profiles: Sequence[str] | None) -> tuple[str, ...]:
        """From now on `device` is cut into MIG instances such as 3g.40gb; None: it is whole.

        Returns:
            The UUIDs of the instances, by their place.
        """
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            self._devices[device].set_mig(profiles, now_ns)
            self._publish(device, now_ns)
            return self._devices[device].instance_uuids

    def fault(
        self,
        name: str,
        device: int | None = None,
        *,
        value: int | None = None,
        for_ns: int | None = None,
    ) -> None:
        """A fault of `faults.KINDS` is in force from now on, for `for_ns` or until `clear`.

        `device` None: of the whole library. It is seen at once.
        """
        now_ns = self._clock.monotonic_ns()
        until_ns = NO_END if for_ns is None else now_ns + for_ns
        with self._lock:
            self._faults.inject(name, device, value=value, until_ns=until_ns)
        self.advance()

    def clear(self, device: int | None = None) -> None:
        """Switch off all faults of a device; of the library and all devices where None."""
        with self._lock:
            self._faults.clear(device)
        self.advance()

    def xid(self, device: int, number: int) -> None:
        """The driver reports an XID of `device`."""
        with self._lock:
            self._faults.xid(device, number)

    def mirror(self, mirror: Mirror | None) -> None:
        """From now on `mirror` sets the processes and the utilisation of the devices it names."""
        unknown = sorted(mirror.devices - set(range(len(self._devices)))) if mirror else []
        if unknown:
            raise ValueError(
                f"no device {unknown[0]}: there are {len(self._devices)}, counted from 0"
            )
        with self._lock:
            self._mirror = mirror

    def energy_mj(self, device: int) -> int:
        """The energy counter of `device` at its last 100 ms tick, as the library would give it."""
        with self._lock:
            return self._devices[device].energy_mj(self._clock.monotonic_ns())

    def advance(self) -> None:
        """Bring the state file up to the clock's time."""
        with self._lock:
            if self._closed:
                return
            now_ns = self._clock.monotonic_ns()
            loads = self._mirror.sample(now_ns) if self._mirror else None
            for device, processes in (loads or {}).items():
                self._devices[device].follow(processes, now_ns)
            for device in range(len(self._devices)):
                self._publish(device, now_ns)

    def run(self, stop: threading.Event) -> None:
        """Publish at each tick of the energy counter until `stop` is set."""
        while not stop.is_set():
            self.advance()
            elapsed_ns = self._clock.monotonic_ns() - self._origin_ns
            self._clock.wait(stop, ENERGY_TICK_NS - elapsed_ns % ENERGY_TICK_NS)

    @contextlib.contextmanager
    def running(self) -> Generator[Simulator, None, None]:
        """Run in a thread of its own for as long as the `with` block lasts."""
        stop = threading.Event()
        thread = threading.Thread(target=self.run, args=(stop,), name="simulator", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        """Publish once more and let go of the file, which stays. Closing twice is harmless."""
        with self._lock:
            if not self._closed:
                self.advance()
                self._closed = True
                self._file.close()
                self._faults.close()
                self._lock_file.close()

    def _publish(self, device: int, now_ns: int) -> None:
        moment = Moment(now_ns, now_ns - self._origin_ns, self._clock.realtime_ns())
        entry, faults = self._devices[device], self._faults
        entry.advance(faults.in_force(device, now_ns), faults.resets(device), moment)
        self._file.publish(device, entry.values(moment, has_peers=len(self._devices) > 1))
