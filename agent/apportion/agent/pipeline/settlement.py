"""The settlement: the state between ticks, and how a tick becomes part of it once committed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.agent.pipeline.device import Knot, MeteredDevice
from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.registry import DeviceKey, Registry
from apportion.agent.pipeline.restore import restore_rings
from apportion.agent.pipeline.spans import Decoded, decode, span_rows
from apportion.agent.pipeline.tick import (
    MIN_PATIENCE_NS,
    TickInput,
    TickOutcome,
    compute,
    group_settled_ns,
)
from apportion.agent.pipeline.totals import Totals
from apportion.core.category import SpanStatus
from apportion.cost.apportionment import TimeShare
from apportion.cost.ledger.batch import LedgerState, Row, TickBatch
from apportion.cost.settlement.posting import accrual_of, accrual_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apportion.agent.ingest import RingIdentity
    from apportion.agent.metrics.labels import LabelFolder
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.agent.pipeline.ring_state import OpenRoot, RingState
    from apportion.core.interval import Interval
    from apportion.core.reading import DeviceInfo, Reading
    from apportion.cost.ledger.ledger import Ledger
    from apportion.cost.rate import Rate
    from apportion.cost.settlement.evidence import Verdict

POLL_MARGIN_NS: Final = 200_000_000
"""What ended this long before the last poll of the rings has been accepted by it."""
MARGIN_NS: Final = 15 * 60 * 1_000_000_000
"""Spans that ended this long before the oldest watermark are not loaded at a restart."""
METHOD: Final = TimeShare()
METHOD_KEY: Final = 1


@dataclass(slots=True)
class _Unsaved:
    """What was read and is not committed yet; a failed commit keeps it for the next one."""

    spans: list[Row] = field(default_factory=list["Row"])
    decoded: list[Decoded] = field(default_factory=list[Decoded])
    ended: list[tuple[RingState, OpenRoot]] = field(
        default_factory=list["tuple[RingState, OpenRoot]"]
    )
    readings: list[Row] = field(default_factory=list["Row"])
    bindings: list[Row] = field(default_factory=list["Row"])
    wall: list[Row] = field(default_factory=list["Row"])
    rings: dict[int, RingState] = field(default_factory=dict["int", "RingState"])


class Settlement:
    """All of one agent's settlement state. One thread uses it.

    Order of use: `devices` and `readings`, `attach`, `absorb`, `bind`, then `tick`, which
    either commits everything or changes nothing.
    """

    def __init__(
        self,
        state: LedgerState,
        *,
        time: NodeTime,
        folder: LabelFolder,
        rates_of: Callable[[str], Sequence[Rate]],
        users_of: Callable[[MeteredDevice], list[int]],
        lateness_ns: int,
        sample_period_ns: int,
    ) -> None:
        self._agent_id = state.agent_id
        self._time = time
        self._rates_of = rates_of
        self._users_of = users_of
        self._lateness_ns = lateness_ns
        self._patience_ns = max(MIN_PATIENCE_NS, 3 * sample_period_ns)
        self._next_charge_key = state.next_charge_key
        self._unsaved = _Unsaved()
        self._boot_row: Row | None = None
        self._new_methods = [(METHOD_KEY, METHOD.name)]
        self.registry = Registry.of(state)
        self.totals = Totals(folder, self.registry.entities)
        self.accruals = dict(map(accrual_of, state.tables.get("accrual", [])))
        self.verdicts: dict[int, Verdict] = {}
        self.positions: dict[str, str] = {}
        self._restore(state)

    def _restore(self, state: LedgerState) -> None:
        tables = state.tables
        boots = {row[0]: row for row in tables.get("boot", [])}
        same_boot = self._time.boot in boots
        if not same_boot:
            first_ns = min((row[1] for row in tables.get("watermark", [])), default=0)
            self._boot_row = (self._time.boot, self._time.anchor_ns, first_ns)
        if tables.get("method"):
            self._new_methods = []
        knots: dict[int, list[Knot]] = {}
        for key, time_ns, values in sorted(tables.get("reading", [])):
            knots.setdefault(key, []).append(Knot.of_json(time_ns, values))
        self.devices: dict[str, MeteredDevice] = {}
        self._watermarks: dict[str, tuple[Row, list[Knot], bool]] = {}
        names = dict(self.registry.devices.items())
        for row in tables.get("watermark", []):
            self._watermarks[names[row[0]].device] = (row, knots.get(row[0], []), same_boot)
        settled = {row[0]: row[1] for row in tables.get("watermark", [])}
        self.rings: dict[int, RingState] = restore_rings(
            state, self.registry, settled, {key[:5] for key in self.accruals}, self._time.boot
        )
        ring_names = dict(self.registry.rings.items())
        for row in tables.get("ring_position", []):
            if row[0] in self.rings:
                self.positions[ring_names[row[0]]] = row[1]

    # -- devices ---------------------------------------------------------------------------------
    def read(self, info: DeviceInfo, reading: Reading) -> None:
        """A reading of a device that this agent owns."""
        time_ns = self._time.of(reading.time_ns)
        device = self.devices.get(info.device)
        if device is None:
            device = self._begin(info, time_ns)
        device.info = info
        knot = device.add(reading, time_ns)
        if knot is not None:
            self._unsaved.readings.append((device.key, time_ns, knot.to_json()))

    def _begin(self, info: DeviceInfo, time_ns: int) -> MeteredDevice:
        name = DeviceKey(info.device, info.name, info.source, int(info.simulated))
        key = self.registry.devices.key(name)
        group = self.registry.groups.key((key,))
        device = MeteredDevice(key, group, info, time_ns, time_ns)
        known = self._watermarks.pop(info.device, None)
        if known is not None:
            (_, settled_ns, since_ns, settled_mj, energy_source), knots, same_boot = known
            device.settled_ns, device.since_ns = settled_ns, since_ns
            device.settled_mj, device.energy_source = settled_mj, energy_source
            device.restore(knots, same_boot=same_boot)
        self.devices[info.device] = device
        self.price(device)
        return device

    @property
    def held(self) -> dict[int, int]:
        """Watermarks of devices that were metered before and have not been read again yet."""
        return {row[0]: row[1] for row, _, _ in self._watermarks.values()}

    def disown(self, device: str) -> None:
        """Another agent meters the device now: nothing here waits for it any more."""
        self._watermarks.pop(device, None)
        self.devices.pop(device, None)

    def price(self, device: MeteredDevice) -> None:
        """Look the device's rates up again."""
        now_ns = max(device.settled_ns, device.since_ns)
        device.rates = self.registry.periods(
            device.info.name, self._rates_of(device.info.name), now_ns, self._time.offset_ns
        )

    # -- rings -----------------------------------------------------------------------------------
    def attach(self, identity: RingIdentity, state: RingState, row: Row) -> None:
        """A ring that was not known before."""
        self.rings[state.key] = state
        self.registry.note_ring(row)
        self._unsaved.rings[state.key] = state

    def absorb(
        self,
        ring: RingState,
        records: np.ndarray[tuple[int], np.dtype[np.void]],
        late: np.ndarray[tuple[int], np.dtype[np.bool_]],
        entity_of: Callable[[int, int], int],
    ) -> None:
        """Records of one ring in the order of their sequence, times on the host's clock."""
        decoded = decode(records, late, self._time.anchor_ns, entity_of)
        ring.absorb(decoded)
        self._unsaved.spans += span_rows(decoded, ring.key)
        self._unsaved.decoded.append(decoded)
        self._unsaved.rings[ring.key] = ring

    def ended(self, ring: RingState, ended_ns: int) -> None:
        """The ring's process died at node time `ended_ns`; its open spans end as lost."""
        for span in ring.die(ended_ns):
            self._unsaved.spans.append(_lost_row(ring, span))
            self._unsaved.ended.append((ring, span))
        self._unsaved.rings[ring.key] = ring

    def lost(self, ring: RingState, window: Interval) -> None:
        """Records of the ring were overwritten; what is charged in this window is incomplete."""
        ring.losses.append(window)

    def position(self, ring: RingState, name: str, position: str) -> None:
        """How far the ring has been read, as JSON."""
        self.positions[name] = position
        self._unsaved.rings[ring.key] = ring

    def bound(
        self, ring: RingState, device_keys: tuple[int, ...], source: str, now_ns: int
    ) -> None:
        """The ring's devices are known (or known better)."""
        group = self.registry.groups.key(device_keys)
        if ring.group != group:
            ring.bind(group)
            self._unsaved.bindings.append((ring.key, now_ns, group, source))
            self._unsaved.rings[ring.key] = ring

    def entity(self, value: EntityKey) -> int:
        """The key of an entity."""
        return self.registry.entities.key(value)

    def wall_moved(self, since_ns: int, offset_ns: int) -> None:
        """The wall clock has another offset from node time now."""
        self._unsaved.wall.append((since_ns, offset_ns))

    @property
    def unsaved_spans(self) -> int:
        """How many records wait for a commit; the caller stops reading beyond its bound."""
        return len(self._unsaved.spans)

    # -- the tick --------------------------------------------------------------------------------
    def tick(self, now_ns: int, polled_ns: int, ledger: Ledger) -> TickOutcome:
        """Settle up to `now_ns` less the lateness, and commit it.

        `polled_ns` is when the rings were last polled.

        Raises:
            LedgerUnavailable: nothing has changed, and the same work is in the next tick.
        """
        limit_ns = min(now_ns - self._lateness_ns, polled_ns - POLL_MARGIN_NS)
        tick = TickInput(
            now_ns,
            limit_ns,
            self._patience_ns,
            list(self.devices.values()),
            list(self.rings.values()),
            self.registry,
            self.accruals,
            self.verdicts,
            self._users_of,
            self.held,
            self._next_charge_key,
            METHOD,
            METHOD_KEY,
        )
        with ledger.read() as connection:
            outcome = compute(tick, connection, self._agent_id)
        begun_ns = ledger.clock.monotonic_ns()
        ledger.commit(self._batch(outcome))
        outcome.commit_ns = ledger.clock.monotonic_ns() - begun_ns
        self._apply(outcome, limit_ns)
        return outcome

    def _batch(self, outcome: TickOutcome) -> TickBatch:
        unsaved, batch = self._unsaved, TickBatch()
        if self._boot_row is not None:
            batch.insert("boot", [self._boot_row])
        batch.insert("method", list(self._new_methods))
        batch.replace("wall_offset", unsaved.wall)
        self.registry.write(batch)
        batch.replace("binding", unsaved.bindings)
        batch.insert("span", unsaved.spans)
        batch.replace("reading", unsaved.readings)
        batch.insert(
            "settlement", [(*r[:3], r.rate or None, *r[4:]) for r in outcome.settled.settlements]
        )
        batch.insert("settlement_part", [tuple(part) for part in outcome.settled.parts])
        batch.insert("charge", outcome.lines)
        batch.replace("evidence", outcome.evidence)
        names = dict(self.registry.rings.items())
        batch.replace(
            "ring_position",
            [
                _position_row(ring, self.positions.get(names[ring.key], ""))
                for ring in unsaved.rings.values()
            ],
        )
        batch.replace("watermark", self._watermark_rows(outcome))
        batch.accruals_changed = [
            accrual_row(key, accrual, METHOD_KEY) for key, accrual in outcome.posted.changed.items()
        ]
        batch.accruals_removed = [tuple(key) for key in outcome.posted.removed]
        for device in self.devices.values():
            target_ns = outcome.targets[device.key]
            kept = [knot.time_ns for knot in device.knots if knot.time_ns <= target_ns]
            if kept:
                batch.readings_before[device.key] = kept[-1]
        return batch

    def _watermark_rows(self, outcome: TickOutcome) -> list[Row]:
        rows: list[Row] = []
        for device in self.devices.values():
            target_ns, curve = outcome.targets[device.key], device.curve()
            known = device.settled_mj
            if curve is not None:
                known = max(known or 0, curve.at(target_ns))
            rows.append((device.key, target_ns, device.since_ns, known, device.energy_source))
        return rows

    def _apply(self, outcome: TickOutcome, limit_ns: int) -> None:
        """The batch is committed: it is the state now."""
        self.registry.committed()
        self._boot_row, self._new_methods = None, []
        self._next_charge_key = outcome.next_charge_key
        self.accruals = outcome.posted.accruals
        self.verdicts.update(outcome.verdicts)
        self.totals.add_settled(outcome.settled)
        self.totals.add_charges(outcome.posted.charges)
        for redone in outcome.reallocated:
            self.totals.add_moves(redone.moves, "learnt_late")
        self.totals.add_lost(outcome.lines, "process_died")
        for decoded in self._unsaved.decoded:
            self.totals.add_spans(decoded)
        for ring, span in self._unsaved.ended:
            self.totals.add_ended(span.kind, span.entity or ring.run_entity, SpanStatus.LOST, 1)
        self._unsaved = _Unsaved()
        for device in self.devices.values():
            device.settled(outcome.targets[device.key])
        groups = self.registry.groups
        for key, ring in list(self.rings.items()):
            if ring.group is None:
                continue
            known = {**self.held, **outcome.targets}
            settled_ns = group_settled_ns(groups.value(ring.group), known, limit_ns)
            ring.settled(settled_ns)
            if ring.ended_ns is not None and ring.ended_ns < settled_ns - MARGIN_NS:
                del self.rings[key]


def _position_row(ring: RingState, position: str) -> Row:
    first_ns, last_ns = ring.resume()
    counts = json.loads(position) if position else {}
    return (
        ring.key,
        position,
        counts.get("lost", 0),
        counts.get("abandoned", 0),
        ring.ended_ns,
        first_ns,
        last_ns,
        int(ring.admits),
    )


def _lost_row(ring: RingState, span: OpenRoot) -> Row:
    """A span that never wrote its record: its sequence is minus its number."""
    return (
        ring.key,
        -span.number,
        span.number,
        0,
        int(span.kind),
        int(SpanStatus.LOST),
        0,
        0,
        span.entity,
        None,
        span.start_ns,
        span.scheduled_ns or None,
        span.first_token_ns or None,
        span.seen_ns,
        span.step if span.step >= 0 else None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        0,
    )
