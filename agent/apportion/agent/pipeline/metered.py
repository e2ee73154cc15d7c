"""The devices that this agent meters: awaited after a restart, read, priced, settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.agent.pipeline.device import Knot, MeteredDevice
from apportion.agent.pipeline.registry import DeviceKey
from apportion.core.ids import DeviceId, is_part
from apportion.core.reading import DeviceInfo
from apportion.cost.idle_power import IdlePower

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from fractions import Fraction

    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.agent.pipeline.registry import Registry
    from apportion.collectors.collector import DeviceFailure
    from apportion.core.reading import Reading
    from apportion.cost.ledger.batch import LedgerState, Row, TickBatch
    from apportion.cost.rate import Rate


_WHOLE: Final = "1"


class _Remembered(NamedTuple):
    """A device of the ledger that was not seen in this process yet."""

    key: DeviceKey
    watermark: Row
    knots: list[Knot]
    idle: IdlePower

    @property
    def place(self) -> int:
        """Its place in its source's order when it was last read; -1 where nothing says so."""
        return self.knots[-1].index if self.knots else -1


class MeteredDevices:
    """`devices` are metered now, by id; others are only remembered.

    A device can end: MIG cuts a GPU into instances and makes it whole again. Then it is settled to
    its last reading, and has no time until it comes back: that is the time of other devices.
    """

    def __init__(
        self,
        state: LedgerState,
        registry: Registry,
        time: NodeTime,
        rates_of: Callable[[str], Sequence[Rate]],
        share_of: Callable[[str], Fraction],
    ) -> None:
        self._registry, self._time = registry, time
        self._rates_of, self._share_of = rates_of, share_of
        self.devices: dict[str, MeteredDevice] = {}
        self._gone: dict[str, MeteredDevice] = {}
        self._returned: set[int] = set()
        self._ending: list[MeteredDevice] = []
        self._shares = {row[0]: row[2] for row in sorted(state.tables.get("device_share", []))}
        self._new_shares: list[Row] = []
        knots: dict[int, list[Knot]] = {}
        for key, time_ns, values in sorted(state.tables.get("reading", [])):
            knots.setdefault(key, []).append(Knot.of_json(time_ns, values))
        self._anew: set[str] = set()
        idle: dict[int, list[Row]] = {}
        for row in state.tables.get("idle_power", []):
            idle.setdefault(row[0], []).append(row)
        names = dict(registry.devices.items())
        self._remembered: dict[str, _Remembered] = {}
        for row in sorted(state.tables.get("watermark", []), key=lambda row: row[1]):
            value = names[row[0]]
            if registry.devices.key(value) != row[0]:
                continue
            older = self._remembered.get(value.device)
            if older is not None:  # it had ended, which no commit has said
                registry.devices.renewed(older.key)
            powers = IdlePower.of_rows(idle.get(row[0], []))
            self._remembered[value.device] = _Remembered(value, row, knots.get(row[0], []), powers)
        # Sorted by watermark: of two devices at one place the later one is there.
        self._places = {known.place: name for name, known in self._remembered.items()}

    @property
    def settling(self) -> list[MeteredDevice]:
        """What a tick settles: devices that are metered, and those that ended a moment ago."""
        return [*self.devices.values(), *self._ending]

    @property
    def given_up(self) -> list[MeteredDevice]:
        """Devices that were awaited in vain: no time of theirs is settled, the past may change."""
        return list(self._gone.values())

    @property
    def remembered(self) -> list[str]:
        """Devices of the ledger that are neither resumed nor disowned yet."""
        return list(self._remembered)

    def resume(self, device: str, now_ns: int) -> None:
        """Wait for the readings of a device that the ledger knows; does nothing for others."""
        known = self._remembered.get(device)
        if known is not None:
            key = known.key
            index = known.place if self._is_at(device, known.place) else -1
            info = DeviceInfo(DeviceId(device), key.name, index, key.source, bool(key.simulated))
            self._begin(info, now_ns).awaited_since_ns = now_ns

    def _is_at(self, device: str, index: int) -> bool:
        """Was nothing else read at this place since? The parts of a GPU share its place."""
        latest = self._places[index]
        return latest == device or (is_part(latest) and is_part(device))

    def failed(self, failure: DeviceFailure) -> None:
        """A device that is awaited is there and cannot be read: its time goes on, unattributed."""
        for device in self.devices.values():
            if device.awaited_since_ns is not None and failure.concerns(device.info):
                device.awaited_since_ns = None
                self._price(device)

    def read(self, info: DeviceInfo, reading: Reading) -> Row | None:
        """Take a reading. Returns its row of `reading`; None where it is older than the last."""
        time_ns = self._time.of(reading.time_ns)
        device = self.devices.get(info.device) or self._gone.get(info.device)
        if device is not None and device.info.name != info.name:
            # The same id is another device now: what MIG has left over is larger, or smaller.
            self.end(info.device)
            device = None
        if device is None:
            device = self._begin(info, time_ns)
        elif info.device in self._gone:
            self.devices[info.device] = self._gone.pop(info.device)
            self._returned.add(device.key)
        device.info = info
        if not device.priced:
            self._price(device)
        knot = device.add(reading, time_ns, self._time.boot)
        return None if knot is None else (device.key, knot.time_ns, knot.to_json())

    def key(self, info: DeviceInfo) -> int:
        """The ledger's key of a device that was found."""
        value = DeviceKey.of(info)
        if info.device not in self._anew:
            return self._registry.devices.key(value)
        self._anew.discard(info.device)
        return self._registry.devices.renewed(value)

    def disown(self, device: str) -> None:
        """Another agent meters it now, or did meanwhile.

        Should it come back, it gets a new key: no time of the other agent's is between two
        settlements of one key.
        """
        known = [self._remembered.pop(device, None), self.devices.pop(device, None)]
        if any((*known, self._gone.pop(device, None))):
            self._anew.add(device)

    def end(self, device: str) -> None:
        """The device exists no longer.

        Should it come back, it gets a new key: the time of others is between.
        """
        ended = self.devices.pop(device, None) or self._gone.pop(device, None)
        if ended is not None:
            ended.end()
            self._ending.append(ended)
            self._anew.add(device)

    def give_up(self, now_ns: int) -> list[str]:
        """Devices that were awaited in vain are set aside; whatever waits for them goes on."""
        gone = [name for name, device in self.devices.items() if device.is_gone(now_ns)]
        for name in gone:
            if is_part(name):  # the GPU is still there, of which it was a part
                self.end(name)
            else:
                self._gone[name] = self.devices.pop(name)
        return gone

    def take_returned(self) -> set[int]:
        """Keys of devices that the ledger knew, or that had been given up, since the last call."""
        returned, self._returned = self._returned, set()
        return returned

    def write(
        self, batch: TickBatch, targets: Mapping[int, int], idle: Mapping[int, IdlePower]
    ) -> None:
        """Add watermarks by `targets`, new shares, and which readings are no longer needed.

        `idle` are the powers at rest as they are known now.
        """
        rows: list[Row] = []
        for device in self.settling:
            target_ns = targets[device.key]
            energy = (device.accounted_mj(target_ns), device.energy_source)
            rows.append((device.key, target_ns, device.since_ns, *energy))
            batch.readings_before[device.key] = device.needed_from_ns(target_ns)
            if idle[device.key].samples != device.idle.samples:
                batch.replace("idle_power", idle[device.key].rows(device.key))
        batch.replace("watermark", rows)
        batch.replace("device_share", list(self._new_shares))

    def settled(self, targets: Mapping[int, int], idle: Mapping[int, IdlePower]) -> None:
        """What `write` added is committed."""
        self._new_shares.clear()
        for device in self.settling:
            device.settled(targets[device.key])
            device.idle = idle[device.key]
        for device in [each for each in self._ending if each.settled_ns == each.ends_ns]:
            self._ending.remove(device)
            self._forget(device)

    def _forget(self, ended: MeteredDevice) -> None:
        """All of its time is in the ledger; a restart must not wait for it."""
        devices = self._registry.devices
        value = devices.value(ended.key)
        if devices.key(value) == ended.key:
            devices.renewed(value)
            self._anew.discard(value.device)

    def _begin(self, info: DeviceInfo, time_ns: int) -> MeteredDevice:
        known = self._remembered.pop(info.device, None)
        key = self.key(info) if known is None else self._registry.devices.key(known.key)
        group = self._registry.groups.key((key,))
        device = MeteredDevice(key, group, info, time_ns, time_ns)
        if known is not None:
            _, settled_ns, since_ns, settled_mj, energy_source = known.watermark
            self._returned.add(key)
            device.settled_ns, device.since_ns = settled_ns, since_ns
            device.settled_mj, device.energy_source = settled_mj, energy_source
            device.restore(known.knots)
            device.idle = known.idle
        device.rates = self._registry.used_periods(info.name)
        self.devices[info.device] = device
        return device

    def _price(self, device: MeteredDevice) -> None:
        name = device.info.name
        device.rates = self._registry.periods(
            name, self._rates_of(name), device.settled_ns, self._time.offset_ns
        )
        device.priced = True
        share = str(self._share_of(name))
        if share != self._shares.get(device.key, _WHOLE):
            # Whoever prices this time later has to know what part of the device it is of.
            self._shares[device.key] = share
            self._new_shares.append((device.key, device.settled_ns, share))
