"""One settlement tick, computed from the state without changing it: what would be committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from apportion.agent.pipeline.surprises import Reallocated, redo, surprises
from apportion.core.category import Category
from apportion.core.interval import Interval, union
from apportion.cost.ledger import history
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.settlement.evidence import Verdict, judge
from apportion.cost.settlement.late import reallocation_rows
from apportion.cost.settlement.posting import Book, Posted
from apportion.cost.settlement.settle import Settled, settle
from apportion.cost.settlement.work import NOBODY, ROOT, DeviceWork, Spanless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from sqlalchemy import Connection

    from apportion.agent.pipeline.device import MeteredDevice
    from apportion.agent.pipeline.registry import Registry
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.apportionment import Apportioner
    from apportion.cost.ledger.batch import Row
    from apportion.cost.settlement.phases import PhaseSlice
    from apportion.cost.settlement.posting import Accrual, AccrualKey

MIN_PATIENCE_NS = 5_000_000_000
"""Telemetry that is silent for less than this is only late."""


@dataclass(frozen=True, slots=True)
class TickInput:
    """The state before a tick. Nothing in it is changed by `compute`."""

    now_ns: int
    limit_ns: int
    patience_ns: int
    devices: Sequence[MeteredDevice]
    rings: Sequence[RingState]
    registry: Registry
    accruals: Mapping[AccrualKey, Accrual]
    verdicts: Mapping[int, Verdict]
    users_of: Callable[[MeteredDevice], list[int]]
    held: Mapping[int, int]
    """Watermarks of devices that this agent metered before and has not read again yet."""
    next_charge_key: int
    apportioner: Apportioner
    method_key: int


@dataclass(slots=True)
class TickOutcome:
    """What a tick settles; it becomes the state once it is committed."""

    targets: dict[int, int]
    settled: Settled
    posted: Posted
    lines: list[Row]
    reallocated: list[Reallocated]
    evidence: list[Row] = field(default_factory=list["Row"])
    verdicts: dict[int, Verdict] = field(default_factory=dict[int, Verdict])
    next_charge_key: int = 0
    commit_ns: int = 0


def compute(tick: TickInput, connection: Connection, agent_id: int) -> TickOutcome:
    """Everything that one tick settles, and the lines it posts."""
    groups = dict(tick.registry.groups.items())
    bound = [ring for ring in tick.rings if ring.group is not None]
    slices = _slices(bound)
    targets = {
        device.key: device.target_ns(tick.limit_ns, patience_ns=tick.patience_ns)
        for device in tick.devices
    }
    settled_by_device = {**tick.held, **targets}
    reallocated = [
        redo(
            surprise,
            bound,
            groups,
            connection,
            agent_id,
            apportioner=tick.apportioner,
            tie=tick.registry.tie,
        )
        for surprise in surprises(tick.devices, bound, groups)
    ]
    roots = np.concatenate([np.zeros(0, ROOT), *[ring.roots() for ring in bound]])
    gaps = [gap.claim for ring in bound for gap in ring.gaps]
    outcome = TickOutcome(targets, Settled(roots, [], {}), Posted([], {}, {}, []), [], reallocated)
    evidence = _evidence(tick, outcome, roots, groups)
    outcome.settled = settle(
        [_work(device, targets[device.key]) for device in tick.devices],
        roots,
        [*gaps, *evidence],
        groups,
        apportioner=tick.apportioner,
        tie=lambda row: _tie(tick.registry, roots, [*gaps, *evidence], row),
    )
    book = Book(
        tick.accruals,
        settled_ns=lambda group: group_settled_ns(groups[group], settled_by_device, tick.limit_ns),
        slices=slices,
        first_charge_key=tick.next_charge_key,
        posted_ns=tick.now_ns,
        method_key=tick.method_key,
    )
    outcome.posted = book.post(outcome.settled)
    outcome.lines = list(outcome.posted.charges)
    for redone in reallocated:
        outcome.lines += reallocation_rows(
            redone.moves,
            period=(redone.start_ns, redone.end_ns),
            reason="learnt_late",
            roots=redone.roots,
            slices=slices,
            first_charge_key=tick.next_charge_key + len(outcome.lines),
            posted_ns=tick.now_ns,
            method_key=tick.method_key,
        )
    lost = _lost_lines(tick, outcome, bound, connection, agent_id)
    outcome.lines += lost
    outcome.next_charge_key = tick.next_charge_key + len(outcome.lines)
    return outcome


def group_settled_ns(members: Sequence[int], targets: Mapping[int, int], limit_ns: int) -> int:
    """How far every owned device of a group is settled; a group of others' devices never waits."""
    return min((targets[key] for key in members if key in targets), default=limit_ns)


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
    )


def _slices(rings: Sequence[RingState]) -> Callable[[int, int], list[PhaseSlice]]:
    by_key = {ring.key: ring for ring in rings}
    return lambda ring, number: by_key[ring].slices(number) if ring in by_key else []


def _tie(
    registry: Registry, roots: NDArray[np.void], spanless: Sequence[Spanless], row: int
) -> int:
    if row < roots.size:
        return registry.tie(int(roots["ring"][row]), int(roots["number"][row]), 0)
    index = row - roots.size
    return registry.tie(0, 0, spanless[index].entity if index < len(spanless) else NOBODY)


def _evidence(
    tick: TickInput,
    outcome: TickOutcome,
    roots: NDArray[np.void],
    groups: Mapping[int, Sequence[int]],
) -> list[Spanless]:
    """Judge each device's reading windows; claims of what their uncovered time is."""
    claims: list[Spanless] = []
    for device in tick.devices:
        mine = [group for group, members in groups.items() if device.key in members]
        rows = roots[np.isin(roots["group"], mine)]
        rings = [ring for ring in tick.rings if ring.group in mine]
        target_ns = outcome.targets[device.key]
        pids = {ring.pid for ring in rings} if device.info.source == "cpu" else None
        last = tick.verdicts.get(device.key)
        for window in device.windows(target_ns, patience_ns=tick.patience_ns, cpu_of=pids):
            inside = rows[(rows["start_ns"] < window.end_ns) & (rows["end_ns"] > window.start_ns)]
            covered = union(
                Interval(start_ns, end_ns)
                for start_ns, end_ns in zip(
                    inside["start_ns"].tolist(), inside["end_ns"].tolist(), strict=True
                )
            )
            holders = [ring.run_entity for ring in rings if _held(ring, window.start_ns)]
            verdict = judge(window, covered, holders, tick.users_of(device))
            for entity in verdict.entities or (NOBODY,):
                claims.append(
                    Spanless(
                        verdict.start_ns,
                        verdict.end_ns,
                        verdict.category,
                        device.group,
                        entity,
                        verdict.reason,
                        device.key,
                    )
                )
            if last is not None and last[1:] == (verdict.start_ns, *verdict[2:]):
                verdict = verdict._replace(start_ns=last.start_ns)
            last = verdict
            keys = ",".join(map(str, verdict.entities))
            row = (device.key, *verdict[:2], int(verdict.category), keys, verdict.reason)
            if outcome.evidence and outcome.evidence[-1][:2] == row[:2]:
                outcome.evidence[-1] = row
            else:
                outcome.evidence.append(row)
        if last is not None:
            outcome.verdicts[device.key] = last
    return claims


def _held(ring: RingState, time_ns: int) -> bool:
    since_ns = ring.process_start_ns if ring.process_start_ns is not None else ring.attached_ns
    return since_ns <= time_ns and (ring.ended_ns is None or time_ns < ring.ended_ns)


def _lost_lines(
    tick: TickInput,
    outcome: TickOutcome,
    rings: Sequence[RingState],
    connection: Connection,
    agent_id: int,
) -> list[Row]:
    """The step that was open when its process died: its direct cost moves to `lost`."""
    lost = {(ring.key, number): ring for ring in rings for number in ring.lost}
    if not lost:
        return []
    posted_now = [row for row in outcome.lines if (row[6], row[7]) in lost]
    done = {
        pair
        for pair, ring in lost.items()
        if not any(key.ring == pair[0] and key.number == pair[1] for key in outcome.posted.accruals)
        and ring.group is not None
        and _ended(ring, pair[1], outcome, tick)
    }
    lines: list[Row] = []
    key = tick.next_charge_key + len(outcome.lines)
    for pair in sorted(done):
        earlier = history.charges_of_span(connection, agent_id, *pair)
        for row in [*earlier, *(row for row in posted_now if (row[6], row[7]) == pair)]:
            if row[3] != int(Category.DIRECT):
                continue
            for sign, category, entity in (
                (-1, Category.DIRECT, row[5]),
                (1, Category.LOST, lost[pair].run_entity),
            ):
                amounts = (None if value is None else sign * value for value in row[11:14])
                lines.append(
                    (
                        key + len(lines),
                        int(ChargeKind.REALLOCATION),
                        row[2],
                        int(category),
                        row[4],
                        entity,
                        *row[6:10],
                        tick.now_ns,
                        *amounts,
                        row[14],
                        row[15],
                        "process_died",
                        row[17],
                    )
                )
    return lines


def _ended(ring: RingState, number: int, outcome: TickOutcome, tick: TickInput) -> bool:
    groups = tick.registry.groups.value(ring.group or 0)
    settled_ns = group_settled_ns(groups, {**tick.held, **outcome.targets}, tick.limit_ns)
    ends = ring.pending["end_ns"][ring.pending["number"] == number]
    return bool(ends.size) and int(ends[0]) <= settled_ns
