"""One settlement tick, computed from the state without changing it: what would be committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.agent.pipeline.engine_batches import as_it_ran
from apportion.agent.pipeline.lost_work import LostLines
from apportion.agent.pipeline.reapportion import Reallocated, reapportion
from apportion.agent.pipeline.ring_state import NO_ROOTS
from apportion.agent.pipeline.runs import LostWork
from apportion.agent.pipeline.surprises import surprises
from apportion.agent.pipeline.verdicts import verdicts
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.methods.iteration_share import IterationShare
from apportion.cost.methods.names import Method
from apportion.cost.methods.window_share import WindowShare
from apportion.cost.settlement.late import reallocation_rows
from apportion.cost.settlement.posting import Book, Posted
from apportion.cost.settlement.settle import Settled, settle
from apportion.cost.settlement.work import DeviceWork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from apportion.agent.pipeline.device import MeteredDevice
    from apportion.agent.pipeline.engine_iterations import EngineIterations
    from apportion.agent.pipeline.needs import RequestNeeds
    from apportion.agent.pipeline.registry import Registry
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.agent.pipeline.runs import Runs
    from apportion.cost.idle_power import IdlePower
    from apportion.cost.ledger.batch import Row
    from apportion.cost.ledger.history import History
    from apportion.cost.settlement.accrual import Accrual, AccrualKey
    from apportion.cost.settlement.evidence import Verdict
    from apportion.cost.settlement.phases import PhaseSlice
    from apportion.cost.settlement.work import Roots, Spanless

TELEMETRY_GAP_NS: Final = 5_000_000_000
"""Telemetry that is silent for less than this is only late, ..."""
GAP_PERIODS: Final = 3
"""... and for less than so many of its periods."""
LEARNT_LATE: Final = "learnt_late"
OPEN_BOUND_NS: Final = 10 * NS_PER_MINUTE


@dataclass(frozen=True, slots=True)
class TickInput:
    """The state before a tick. Nothing in it is changed by `compute`."""

    now_ns: int
    limit_ns: int
    patience_ns: int
    devices: Sequence[MeteredDevice]
    given_up: Sequence[MeteredDevice]
    """Not settled, but what is learnt of their settled past moves cost as it does elsewhere."""
    rings: Sequence[RingState]
    registry: Registry
    accruals: Mapping[AccrualKey, Accrual]
    verdicts: Mapping[int, Verdict]
    users_of: Callable[[MeteredDevice], Sequence[int]]
    holders_of: Callable[[MeteredDevice], Sequence[int]]
    next_charge_key: int
    needs: RequestNeeds
    runs: Runs
    iterations: EngineIterations


@dataclass(slots=True)
class TickOutcome:
    """What a tick settles; it becomes the state once it is committed."""

    targets: dict[int, int]
    """How far each device is settled, by its key."""
    limit_ns: int
    spans: Roots = field(default_factory=lambda: NO_ROOTS)
    """Root spans that the tick knew of."""
    settled: Settled = field(default_factory=lambda: Settled(NO_ROOTS, [], {}))
    posted: Posted = field(default_factory=lambda: Posted([], {}, {}, {}, []))
    lines: list[Row] = field(default_factory=list["Row"])
    """Charges and reallocations."""
    reallocated: list[Reallocated] = field(default_factory=list[Reallocated])
    lost: list[Row] = field(default_factory=list["Row"])
    """Those of `lines` that moved cost to `lost`."""
    lost_work: LostWork = field(default_factory=LostWork)
    """What is posted as lost with them, besides steps whose process died."""
    evidence: list[Row] = field(default_factory=list["Row"])
    verdicts: dict[int, Verdict] = field(default_factory=dict[int, "Verdict"])
    idle: dict[int, IdlePower] = field(default_factory=dict[int, "IdlePower"])
    """What is known of each device's power at rest now, by its key."""
    next_charge_key: int = 0
    commit_ns: int = 0

    def settled_ns(self, members: Sequence[int]) -> int:
        """How far every owned device of a group is settled; others' devices never wait."""
        known = [self.targets[key] for key in members if key in self.targets]
        return min(known, default=self.limit_ns)

    @property
    def residual(self) -> tuple[int, int]:
        """(units, mJ) that settlements, parts and amounts differ by: 0, or there is a fault."""
        settled = self.settled
        amounts = settled.by_bucket.values()
        units = sum(row.units or 0 for row in settled.settlements)
        energy_mj = sum(row.energy_mj or 0 for row in settled.settlements)
        placed_units = sum(int(a.units.sum()) for a in amounts if a.units is not None)
        placed_mj = sum(int(a.energy_mj.sum()) for a in amounts)
        part_units = sum(part.units or 0 for part in settled.parts)
        part_mj = sum(part.energy_mj or 0 for part in settled.parts)
        return (
            abs(units - part_units) + abs(units - placed_units),
            abs(energy_mj - part_mj) + abs(energy_mj - placed_mj),
        )


def compute(tick: TickInput, history: History) -> TickOutcome:
    """Everything that one tick settles, and the lines it posts."""
    registry = tick.registry
    groups = dict(registry.groups.items())
    rings = [ring for ring in tick.rings if ring.bindings]
    roots_by_ring = {ring.key: ring.roots() for ring in rings}
    # One array for all, of which each ring's is a view: requests of several rings share an engine.
    spans = np.concatenate([NO_ROOTS, *roots_by_ring.values()])
    tick.needs.tell(spans)
    batches = tick.iterations.batches(spans, rings, tick.needs, history)
    edges = np.cumsum([0, *(own.size for own in roots_by_ring.values())]).tolist()
    places = zip(roots_by_ring, edges[:-1], edges[1:], strict=True)
    roots_by_ring = {key: spans[begin:end] for key, begin, end in places}
    outcome = TickOutcome(
        {
            device.key: device.target_ns(
                _limit_ns(tick, device, rings, spans, groups), patience_ns=tick.patience_ns
            )
            for device in tick.devices
        },
        tick.limit_ns,
    )
    outcome.lost_work = tick.runs.due({ring.key: ring for ring in tick.rings}, _committed(tick))
    outcome.reallocated = [
        reapportion(
            surprise,
            rings,
            roots_by_ring,
            groups,
            history,
            needs=tick.needs,
            ties=registry.ties,
            in_vain=lambda row: tick.runs.is_vain(row, outcome.lost_work),
        )
        for surprise in surprises([*tick.devices, *tick.given_up], rings, roots_by_ring, groups)
    ]
    own_time = [
        ring.own_time(ring.gaps(roots_by_ring[ring.key], ring.steps_end_ns), startup=True)
        for ring in rings
    ]
    ran = spans
    if batches is not None:
        ran = as_it_ran(spans, batches, lambda group: outcome.settled_ns(groups[group]))
    roots = np.concatenate([ran, *own_time])
    spanless: list[Spanless] = []
    for device in tick.devices:
        spanless += _judge(tick, outcome, device, rings, spans, groups)
    outcome.settled = settle(
        [_work(device, outcome.targets[device.key]) for device in tick.devices],
        roots,
        spanless,
        groups,
        apportioner=WindowShare() if batches is None else IterationShare(batches),
        tie=registry.ties(roots, spanless),
    )
    book = Book(
        tick.accruals,
        settled_ns=lambda group: outcome.settled_ns(groups[group]),
        slices=_slices(rings),
        with_phases=[ring.key for ring in rings if len(ring.phases)],
        first_charge_key=tick.next_charge_key,
        posted_ns=tick.now_ns,
    )
    outcome.spans = spans
    outcome.posted = book.post(outcome.settled)
    outcome.lines = list(outcome.posted.charges)
    _post_moves(tick, outcome, rings)
    _post_lost(tick, outcome, rings, groups, history)
    outcome.next_charge_key = tick.next_charge_key + len(outcome.lines)
    return outcome


def _committed(tick: TickInput) -> Callable[[int], int]:
    """How far the devices of a group are settled and their lines in the ledger."""
    groups = tick.registry.groups
    settled = {device.key: device.settled_ns for device in tick.devices}

    def settled_ns(group: int) -> int:
        known = [settled[key] for key in groups.value(group) if key in settled]
        return min(known, default=tick.limit_ns)

    return settled_ns


def _limit_ns(
    tick: TickInput,
    device: MeteredDevice,
    rings: Sequence[RingState],
    spans: Roots,
    groups: Mapping[int, Sequence[int]],
) -> int:
    """How far the device may be settled: to its oldest request that runs, whose tokens come last.

    Or that may turn out to have run, since its admission, or all of it, is told with its end; or to
    have run on other devices of its server. A request that runs for longer than `OPEN_BOUND_NS` is
    settled by its presence.
    """
    unplaced = [ring.key for ring in rings if ring.waits_for_engines]
    by_need = spans["method"] == int(Method.ROOFLINE_WINDOWS)
    waiting = spans["open"] & (by_need | (spans["engine"] < 0) & np.isin(spans["ring"], unplaced))
    starts = [
        int(spans["begun_ns"][index])
        for index in np.flatnonzero(waiting).tolist()
        if device.key in groups[int(spans["group"][index])]
    ]
    for ring in rings:
        if ring.group is not None and device.key in groups[ring.group]:
            since_ns = tick.iterations.untold.since_ns(ring.key, tick.limit_ns)
            starts += [] if since_ns is None else [since_ns]
    oldest_ns = max(min(starts, default=tick.limit_ns), tick.limit_ns - OPEN_BOUND_NS)
    return min(tick.limit_ns, oldest_ns)


def _judge(
    tick: TickInput,
    outcome: TickOutcome,
    device: MeteredDevice,
    rings: Sequence[RingState],
    roots: Roots,
    groups: Mapping[int, Sequence[int]],
) -> list[Spanless]:
    mine = [group for group, members in groups.items() if device.key in members]
    judged = verdicts(
        device,
        outcome.targets[device.key],
        [ring for ring in rings if ring.group in mine],
        roots[np.isin(roots["group"], mine)],
        patience_ns=tick.patience_ns,
        users_of=lambda: tick.users_of(device),
        holders_of=lambda: tick.holders_of(device),
        last=tick.verdicts.get(device.key),
    )
    outcome.evidence += judged.rows
    if judged.last is not None:
        outcome.verdicts[device.key] = judged.last
    outcome.idle[device.key] = device.idle.after(judged.rests)
    return judged.claims


def _work(device: MeteredDevice, target_ns: int) -> DeviceWork:
    late_mj, reason = device.late_mj(target_ns)
    return DeviceWork(
        device.key,
        device.group,
        device.settled_ns,
        target_ns,
        device.rates,
        device.curve(),
        device.energy_source,
        late_mj if target_ns > device.settled_ns else 0,
        reason,
        device.idle.power_mw,
    )


def _slices(rings: Sequence[RingState]) -> Callable[[int, int], list[PhaseSlice]]:
    by_key = {ring.key: ring for ring in rings}
    return lambda ring, number: by_key[ring].phases.of(number) if ring in by_key else []


def _post_moves(tick: TickInput, outcome: TickOutcome, rings: Sequence[RingState]) -> None:
    known = _slices(rings)
    for redone in outcome.reallocated:

        def slices(ring: int, number: int, redone: Reallocated = redone) -> list[PhaseSlice]:
            charged = redone.phases.get(ring)
            return known(ring, number) or ([] if charged is None else charged.of(number))

        outcome.lines += reallocation_rows(
            redone.moves,
            period=(redone.start_ns, redone.end_ns),
            reason=LEARNT_LATE,
            roots=redone.roots,
            slices=slices,
            first_charge_key=tick.next_charge_key + len(outcome.lines),
            posted_ns=tick.now_ns,
        )


def _post_lost(
    tick: TickInput,
    outcome: TickOutcome,
    rings: Sequence[RingState],
    groups: Mapping[int, Sequence[int]],
    history: History,
) -> None:
    lost = LostLines(
        history,
        first_charge_key=tick.next_charge_key + len(outcome.lines),
        posted_ns=tick.now_ns,
    )
    for ring in rings:
        if ring.lost:
            charged_ns = ring.charged_ns(lambda group: outcome.settled_ns(groups[group]))
            lost.died(ring, charged_ns, outcome.lines)
    lost.in_vain(outcome.lost_work, tick.runs)
    outcome.lost = lost.rows
    outcome.lines += lost.rows
