"""The controller: it owns a state file and publishes what its devices do.

The library only reads. So power, energy and heat go on whether or not anybody asks, as long as
this runs; when it ends, or is killed, every value stays as it was last published.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, final

from apportion.core.clock import Clock, SystemClock
from apportion.simulator import identity
from apportion.simulator.mirror import Mirror
from apportion.simulator.physics import ENERGY_TICK_NS, DevicePhysics, parts_per_million
from apportion.simulator.profiles import PROFILES, Profile
from apportion.simulator.publication import (
    ProcessLoad,
    check_memory,
    check_processes,
    publication,
)
from apportion.simulator.state import StateFile

PCIE_QUERY_NS: Final = 20_000_000
"""How long nvmlDeviceGetPcieThroughput measures, as nvml.h documents it."""


@dataclass(slots=True)
class _Device:
    physics: DevicePhysics
    processes: tuple[ProcessLoad, ...] = ()
    memory_used_bytes: int = 0


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
            _Device(
                DevicePhysics.start(
                    profile,
                    self._origin_ns,
                    energy_mj=identity.first_energy_mj(profile, seed, index),
                )
            )
            for index in range(devices)
        ]
        self._file = StateFile(
            state,
            identity.header(profile, seed, devices, pcie_query_ns),
            [identity.facts(profile, seed, index) for index in range(devices)],
        )
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

    def set_utilization(self, device: int, ratio: float) -> None:
        """From now on `device` is busy for `ratio` (0 to 1) of the time."""
        utilization_ppm = parts_per_million(ratio)
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            entry = self._devices[device]
            entry.physics = entry.physics.with_utilization(utilization_ppm, now_ns)
            self._publish(device, now_ns)

    def set_processes(self, device: int, processes: Sequence[ProcessLoad]) -> None:
        """From now on `device` lists `processes`; this does not change its utilisation."""
        check_processes(self.profile, processes)
        with self._lock:
            self._devices[device].processes = tuple(processes)
            self._publish(device, self._clock.monotonic_ns())

    def set_memory(self, device: int, used_bytes: int) -> None:
        """From now on at least `used_bytes` are in use; more if the listed processes hold more."""
        check_memory(self.profile, used_bytes)
        with self._lock:
            self._devices[device].memory_used_bytes = used_bytes
            self._publish(device, self._clock.monotonic_ns())

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
            return self._devices[device].physics.published_energy_mj(self._clock.monotonic_ns())

    def advance(self) -> None:
        """Bring the state file up to the clock's time."""
        with self._lock:
            if self._closed:
                return
            now_ns = self._clock.monotonic_ns()
            loads = self._mirror.sample(now_ns) if self._mirror else None
            for device, processes in (loads or {}).items():
                self._follow(device, processes, now_ns)
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

    def _follow(self, device: int, processes: Sequence[ProcessLoad], now_ns: int) -> None:
        """Take over what the mirror saw, as far as the device's memory reaches."""
        entry = self._devices[device]
        room_bytes = self.profile.memory_total_bytes - self.profile.memory_reserved_bytes
        fitting: list[ProcessLoad] = []
        for process in processes:
            used_bytes = min(process.used_bytes, room_bytes)
            room_bytes -= used_bytes
            fitting.append(ProcessLoad(process.pid, used_bytes, process.utilization_ratio))
        check_processes(self.profile, fitting)
        entry.processes = tuple(fitting)
        ratio = min(1.0, sum(process.utilization_ratio for process in fitting))
        entry.physics = entry.physics.with_utilization(parts_per_million(ratio), now_ns)

    def _publish(self, device: int, now_ns: int) -> None:
        entry = self._devices[device]
        held_bytes = sum(process.used_bytes for process in entry.processes)
        values = publication(
            entry.physics,
            entry.processes,
            memory_used_bytes=max(entry.memory_used_bytes, held_bytes),
            has_peers=len(self._devices) > 1,
            at_ns=now_ns,
            realtime_ns=self._clock.realtime_ns(),
        )
        self._file.publish(device, values)
