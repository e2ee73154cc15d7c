"""The settlement: the state between ticks, and how a tick becomes part of it once committed."""

from __future__ import annotations

import gc
import logging
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from apportion.agent.pipeline.engine_iterations import EngineIterations
from apportion.agent.pipeline.known_rings import KnownRings
from apportion.agent.pipeline.merged_iterations import of_engines
from apportion.agent.pipeline.metered import MeteredDevices
from apportion.agent.pipeline.needs import RequestNeeds
from apportion.agent.pipeline.pods import Pods
from apportion.agent.pipeline.registry import Registry
from apportion.agent.pipeline.runs import Runs
from apportion.agent.pipeline.spans import decode, unrecorded_row
from apportion.agent.pipeline.tick import (
    GAP_PERIODS,
    LEARNT_LATE,
    TELEMETRY_GAP_NS,
    TickInput,
    TickOutcome,
    compute,
)
from apportion.agent.pipeline.totals import Totals
from apportion.agent.pipeline.training_work import training_work
from apportion.agent.pipeline.unsaved import Unsaved
from apportion.core.category import SpanStatus
from apportion.cost.ledger.batch import LedgerState, TickBatch
from apportion.cost.ledger.history import History
from apportion.cost.methods.names import Method
from apportion.cost.settlement.accrual import accrual_of, accrual_row

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from apportion.agent.ingest import RingIdentity
    from apportion.agent.metrics.labels import LabelFolder
    from apportion.agent.pipeline.device import MeteredDevice
    from apportion.agent.pipeline.interned import EntityKey
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.agent.pipeline.open_root import OpenRoot
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.collectors.collector import DeviceFailure
    from apportion.core.allocation import Pod
    from apportion.core.interval import Interval
    from apportion.core.reading import DeviceInfo, Reading
    from apportion.cost.ledger.ledger import Ledger
    from apportion.cost.methods.model_facts import ModelFacts
    from apportion.cost.rate import Rate
    from apportion.cost.settlement.evidence import Verdict

_LOG: Final = logging.getLogger(__name__)
POLL_MARGIN_NS: Final = 200_000_000
"""What ended this long before the last poll of the rings has been accepted by it."""


class Settlement:
    """All of one agent's settlement state. One thread uses it.

    Order of use: `resume` and `read` for devices; `attach`, `absorb`, `observe`, `bound`,
    `position` and `ended` for rings; then `tick`, which commits everything or changes nothing.
    """

    def __init__(
        self,
        state: LedgerState,
        *,
        time: NodeTime,
        folder: LabelFolder,
        rates_of: Callable[[str], Sequence[Rate]],
        share_of: Callable[[str], Fraction] = lambda _: Fraction(1),
        users_of: Callable[[MeteredDevice], Sequence[int]],
        holders_of: Callable[[MeteredDevice], Sequence[int]],
        pod_of: Callable[[str], Pod | None] = lambda _: None,
        lateness_ns: int,
        sample_period_ns: int,
        telemetry_gap_ns: int = TELEMETRY_GAP_NS,
        models: Mapping[str, ModelFacts] | None = None,
    ) -> None:
        self._agent_id = state.agent_id
        self._time = time
        self._users_of, self._holders_of = users_of, holders_of
        self._lateness_ns = lateness_ns
        self.telemetry_gap_ns: Final = max(telemetry_gap_ns, GAP_PERIODS * sample_period_ns)
        self._next_charge_key = state.next_charge_key
        self._unsaved = Unsaved()
        tables = state.tables
        boots = {row[0] for row in tables.get("boot", [])}
        self._new_boot = time.boot not in boots
        known = {row[0] for row in tables.get("method", [])}
        self._new_methods = [(int(m), m.label) for m in Method if int(m) not in known]
        self.registry = Registry.of(state)
        self.totals = Totals(folder, self.registry.entities)
        self._pods = Pods(self.registry, pod_of)
        self.accruals = dict(map(accrual_of, tables.get("accrual", [])))
        self.verdicts: dict[int, Verdict] = {}
        self.metered = MeteredDevices(state, self.registry, time, rates_of, share_of)
        self._needs = RequestNeeds(self.registry, models or {})
        self.iterations = EngineIterations(state, self.registry)
        self._known = KnownRings(state, self.registry, time)
        self._runs = Runs(state, self.registry)
        for ring, ended_ns in self._known.of_other_boots():
            self.ended(ring, ended_ns)

    # -- devices ---------------------------------------------------------------------------------
    @property
    def devices(self) -> dict[str, MeteredDevice]:
        """The devices that are metered now, by their id."""
        return self.metered.devices

    def resume(self, device: str, now_ns: int) -> None:
        """This agent owns a device that the ledger knows: wait for its readings."""
        self.metered.resume(device, now_ns)

    def read(self, info: DeviceInfo, reading: Reading) -> None:
        """A reading of a device that this agent owns."""
        row = self.metered.read(info, reading)
        if row is not None:
            self._unsaved.readings.append(row)

    def failed(self, failure: DeviceFailure) -> None:
        """A device cannot be read: nothing waits for its first reading any more."""
        self.metered.failed(failure)

    def end(self, device: str) -> None:
        """The device exists no longer; whatever of its time was read is still settled."""
        self.metered.end(device)

    def disown(self, device: str) -> None:
        """Another agent meters the device now: nothing here waits for it any more."""
        self.metered.disown(device)

    # -- rings -----------------------------------------------------------------------------------
    @property
    def rings(self) -> dict[int, RingState]:
        """The rings that may still matter, by their key."""
        return self._known.states

    def attach(self, identity: RingIdentity) -> RingState:
        """A ring that is being read from now on: its state, new or as the ledger has it."""
        return self._known.attach(identity)

    def absorb(
        self,
        ring: RingState,
        records: NDArray[np.void],
        late: NDArray[np.bool_],
        entity_of: Callable[[int, int, int], int],
    ) -> None:
        """Records of one ring in the order of their sequence, times on the host's clock.

        `entity_of(tenant word, model word, adapter word)` is the key of who they go to.
        """
        if not records.size:
            return
        engines = of_engines(records)
        if engines.any():
            self.iterations.absorb(ring.key, records[engines], self._time.anchor_ns)
            records, late = records[~engines], late[~engines]
            if not records.size:
                return
        self.iterations.name(ring.key, records)
        self.iterations.untold.told(ring.key, records, self._time.anchor_ns)
        decoded = decode(records, late, self._time.anchor_ns, entity_of)
        ring.absorb(decoded)
        self._unsaved.absorb(ring.key, decoded)

    def observe(self, ring: RingState, spans: Iterable[OpenRoot]) -> None:
        """The root spans that a poll showed open."""
        ring.observe(spans)

    def vanished(self, ring: RingState, number: int) -> None:
        """An open span is gone and its record will never come: how it ended is unknown."""
        self._unrecorded(ring, ring.vanish(number), SpanStatus.OPEN)

    def ended(self, ring: RingState, ended_ns: int, *, closed: bool = False) -> None:
        """The ring's process died at node time `ended_ns`; its open spans end as lost.

        `closed`: it said so itself.
        """
        if ring.ended_ns is None:
            for span in ring.die(ended_ns, closed=closed):
                self._unrecorded(ring, span, SpanStatus.LOST)

    def _unrecorded(self, ring: RingState, span: OpenRoot, status: SpanStatus) -> None:
        admits = ring.admits_from is not None
        row = unrecorded_row(ring.key, span, status, admits=admits)
        self._unsaved.unrecorded_rows.append(row)
        self._unsaved.unrecorded.append((span, status))

    def lost(self, ring: RingState, window: Interval) -> None:
        """Records of the ring were overwritten; what is charged in this window is incomplete."""
        ring.lose(window)

    def position(self, ring: RingState, position: str) -> None:
        """How far the ring has been read, as JSON."""
        self._known.read_to(ring, position)

    def bound(
        self, ring: RingState, device_keys: tuple[int, ...], source: str, now_ns: int
    ) -> None:
        """The ring's devices are known, from its beginning on; or known better from now on.

        A change holds for all that is not settled yet, and for nothing that is.
        """
        groups = self.registry.groups
        group = groups.key(device_keys)
        if ring.group == group:
            return
        since_ns = min(ring.attached_ns, ring.process_start_ns or ring.attached_ns)
        if ring.group is not None:
            involved = {*device_keys, *groups.value(ring.group)}
            marks = [d.settled_ns for d in self.metered.settling if d.key in involved]
            since_ns = max(ring.bindings[-1][0] + 1, max(marks, default=now_ns))
        ring.bind(since_ns, group, self.registry.engine_groups(ring.engines, group))
        self._unsaved.bindings.append((ring.key, since_ns, group, source))

    def entity(self, value: EntityKey) -> int:
        """The key of an entity."""
        return self.registry.entities.key(value)

    def wall_moved(self, since_ns: int, offset_ns: int) -> None:
        """The wall clock has another offset from node time now."""
        self._unsaved.wall.append((since_ns, offset_ns))

    @property
    def unsaved_spans(self) -> int:
        """How many records wait for a commit; the caller stops reading beyond its bound."""
        return self._unsaved.spans

    # -- the tick --------------------------------------------------------------------------------
    def tick(self, now_ns: int, polled_ns: int, ledger: Ledger) -> TickOutcome:
        """Settle up to `now_ns` less the lateness, and commit it.

        `polled_ns` is when the rings were last polled.

        Raises:
            LedgerUnavailable: nothing has changed, and the same work is in the next tick.
        """
        with _no_garbage():
            return self._tick(now_ns, polled_ns, ledger)

    def _tick(self, now_ns: int, polled_ns: int, ledger: Ledger) -> TickOutcome:
        limit_ns = min(now_ns - self._lateness_ns, polled_ns - POLL_MARGIN_NS)
        for device in self.metered.give_up(now_ns):
            _LOG.warning("device %s has not come back: it is no longer metered", device)
        with ledger.read() as connection:
            history = History(connection, self._agent_id)
            settled = {device.key: device.settled_ns for device in self.metered.settling}
            self._known.recall(history, settled, self.metered.take_returned())
            outcome = compute(self._input(now_ns, limit_ns), history)
        begun_ns = ledger.clock.monotonic_ns()
        ledger.commit(self._batch(outcome, now_ns))
        outcome.commit_ns = ledger.clock.monotonic_ns() - begun_ns
        self._apply(outcome)
        return outcome

    def _input(self, now_ns: int, limit_ns: int) -> TickInput:
        return TickInput(
            now_ns,
            limit_ns,
            self.telemetry_gap_ns,
            self.metered.settling,
            self.metered.given_up,
            list(self.rings.values()),
            self.registry,
            self.accruals,
            self.verdicts,
            self._users_of,
            self._holders_of,
            self._next_charge_key,
            self._needs,
            self._runs,
            self.iterations,
        )

    def _batch(self, outcome: TickOutcome, now_ns: int) -> TickBatch:
        unsaved, batch = self._unsaved, TickBatch()
        if self._new_boot:
            batch.replace("boot", [(self._time.boot, self._time.anchor_ns, now_ns)])
        batch.insert("method", list(self._new_methods))
        batch.replace("wall_offset", unsaved.wall)
        self.registry.write(batch)
        batch.replace("binding", unsaved.bindings)
        rows = unsaved.span_rows()
        batch.insert("span", [(*row[:-1], now_ns, row[-1]) for row in rows])
        batch.replace("reading", unsaved.readings)
        batch.insert(
            "settlement", [(*r[:3], r.rate or None, *r[4:]) for r in outcome.settled.settlements]
        )
        batch.insert("settlement_part", [tuple(part) for part in outcome.settled.parts])
        batch.insert("charge", outcome.lines)
        batch.insert("lost_work", outcome.lost_work.rows(now_ns))
        batch.replace("evidence", outcome.evidence)
        batch.accruals_changed = [
            accrual_row(key, accrual) for key, accrual in outcome.posted.changed.items()
        ]
        batch.accruals_removed = [tuple(key) for key in outcome.posted.removed]
        self.metered.write(batch, outcome.targets, outcome.idle)
        self.iterations.write(batch)
        self._known.write(batch, outcome)
        return batch

    def _apply(self, outcome: TickOutcome) -> None:
        """The batch is committed: it is the state now."""
        totals, unsaved = self.totals, self._unsaved
        self.registry.committed()
        self._new_boot, self._new_methods = False, []
        self._next_charge_key = outcome.next_charge_key
        self.accruals = outcome.posted.accruals
        self.verdicts.update(outcome.verdicts)
        totals.add_settled(outcome.settled, self._pods)
        totals.add_phases(outcome.posted.by_phase)
        for redone in outcome.reallocated:
            totals.add_moves(redone.moves, LEARNT_LATE)
        totals.add_lost(outcome.lost)
        self._runs.posted(outcome.lost_work)
        totals.add_spans(list(unsaved.records().values()))
        self._add_training()
        for span, status in unsaved.unrecorded:
            totals.add_ended(span.kind, span.entity, status, 1)
        self._unsaved = Unsaved()
        self.metered.settled(outcome.targets, outcome.idle)
        groups = self.registry.groups
        self.iterations.committed(
            outcome.spans,
            list(self.rings.values()),
            lambda group: outcome.settled_ns(groups.value(group)),
            outcome.limit_ns,
        )
        totals.unbound_spans += self._known.committed(outcome)

    def _add_training(self) -> None:
        for key, read in self._unsaved.records().items():
            ring = self.rings.get(key)
            work = None if ring is None else training_work(ring, read, self.registry)
            if ring is not None and work is not None:
                self.totals.add_training(ring.run_entity, work)


@contextmanager
def _no_garbage() -> Generator[None]:
    """Without the search for cycles: the rows of a tick are many, and have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
