"""Claims on time that is settled already: found, and turned into reallocation lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.core.category import Category, SpanKind
from apportion.core.units import NS_PER_HOUR
from apportion.cost.energy import EnergyCurve
from apportion.cost.ledger import history
from apportion.cost.settlement.late import Known, reallocate
from apportion.cost.settlement.work import NOBODY, ROOT, DeviceWork, Spanless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from sqlalchemy import Connection

    from apportion.agent.pipeline.device import MeteredDevice
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.apportionment import Apportioner
    from apportion.cost.settlement.late import Move, MoveKey

HISTORY_NS: Final = 6 * NS_PER_HOUR
"""How far back cost is moved; what is learnt later than that stays where it is."""


class Surprise(NamedTuple):
    """What one device's settled past [start_ns, end_ns) missed."""

    device: MeteredDevice
    start_ns: int
    end_ns: int


class Reallocated(NamedTuple):
    """The moves of one device over [start_ns, end_ns), and the roots they may belong to."""

    start_ns: int
    end_ns: int
    moves: dict[MoveKey, Move]
    roots: NDArray[np.void]


def surprises(
    devices: Sequence[MeteredDevice],
    rings: Sequence[RingState],
    groups: Mapping[int, Sequence[int]],
) -> list[Surprise]:
    """Per device the hull of all claims on its settled time that were never applied."""
    found: list[Surprise] = []
    for device in devices:
        edges: list[tuple[int, int]] = []
        for ring in rings:
            if ring.group is None or device.key not in groups[ring.group]:
                continue
            roots = ring.roots()
            missed = ~roots["applied"] & (roots["start_ns"] < device.settled_ns)
            missed &= roots["end_ns"] > roots["start_ns"]
            edges += zip(
                roots["start_ns"][missed].tolist(), roots["end_ns"][missed].tolist(), strict=True
            )
            edges += [
                gap.claim[:2]
                for gap in ring.gaps
                if not gap.applied and gap.claim.start_ns < device.settled_ns
            ]
            edges += [(start_ns, device.settled_ns) for start_ns in ring.withdrawn.values()]
        if edges:
            oldest_ns = max(device.since_ns, device.settled_ns - HISTORY_NS)
            start_ns = max(min(start for start, _ in edges), oldest_ns)
            end_ns = min(max(end for _, end in edges), device.settled_ns)
            if start_ns < end_ns:
                found.append(Surprise(device, start_ns, end_ns))
    return found


def redo(
    surprise: Surprise,
    rings: Sequence[RingState],
    groups: Mapping[int, Sequence[int]],
    connection: Connection,
    agent_id: int,
    *,
    apportioner: Apportioner,
    tie: Callable[[int, int, int], int],
) -> Reallocated:
    """Apportion the settled past again, as it was known and as it is known now."""
    device, start_ns, end_ns = surprise
    mine = [r for r in rings if r.group is not None and device.key in groups[r.group]]
    new = np.concatenate([np.zeros(0, ROOT), *[ring.roots() for ring in mine]])
    before_memory = new[new["applied"]]
    old = _committed(mine, new, connection, agent_id, start_ns, end_ns)
    withdrawn = _withdrawn(mine, device.settled_ns)
    spanless = _spanless(surprise, mine, old, connection, agent_id)
    fresh_gaps = [g.claim for r in mine for g in r.gaps if not g.applied]
    before = Known(np.concatenate([old, before_memory, withdrawn]), spanless)
    after = Known(np.concatenate([old, new]), [*spanless, *fresh_gaps])
    moves = reallocate(
        _works(surprise, connection, agent_id),
        before,
        after,
        groups,
        apportioner=apportioner,
        tie=lambda known: lambda row: _tie_of(known, row, tie),
    )
    return Reallocated(start_ns, end_ns, moves, after.roots)


def _tie_of(known: Known, row: int, tie: Callable[[int, int, int], int]) -> int:
    if row < known.roots.size:
        root = known.roots[row]
        return tie(int(root["ring"]), int(root["number"]), 0)
    index = row - known.roots.size
    return tie(0, 0, known.spanless[index].entity if index < len(known.spanless) else NOBODY)


def _committed(
    rings: Sequence[RingState],
    in_memory: NDArray[np.void],
    connection: Connection,
    agent_id: int,
    start_ns: int,
    end_ns: int,
) -> NDArray[np.void]:
    """Roots of the ledger that were charged and forgotten."""
    by_key = {ring.key: ring for ring in rings}
    held = set(zip(in_memory["ring"].tolist(), in_memory["number"].tolist(), strict=True))
    rows = [
        row
        for row in history.roots_between(connection, agent_id, by_key.keys(), start_ns, end_ns)
        if (row.ring, row.number) not in held
    ]
    roots = np.zeros(len(rows), dtype=ROOT)
    for root, row in zip(roots, rows, strict=True):
        ring, kind = by_key[row.ring], SpanKind(row.kind)
        claim_ns = row.start_ns
        if kind is SpanKind.REQUEST:
            claim_ns = row.scheduled_ns or (row.end_ns if ring.admits else row.start_ns)
        root["start_ns"], root["end_ns"] = min(claim_ns, row.end_ns), row.end_ns
        root["first_token_ns"], root["number"] = row.first_token_ns or 0, row.number
        root["ring"], root["entity"] = row.ring, row.entity or NOBODY
        root["group"], root["category"] = ring.group or 0, int(kind.category)
    return roots


def _withdrawn(rings: Sequence[RingState], settled_ns: int) -> NDArray[np.void]:
    found: list[np.void] = []
    for ring in rings:
        for root in ring.roots():
            was_ns = ring.withdrawn.get(int(root["number"]))
            if was_ns is not None:
                old = root.copy()
                old["start_ns"], old["end_ns"] = was_ns, settled_ns
                found.append(old)
    return np.array(found, dtype=ROOT)


def _spanless(
    surprise: Surprise,
    rings: Sequence[RingState],
    old: NDArray[np.void],
    connection: Connection,
    agent_id: int,
) -> list[Spanless]:
    """Evidence, start-ups and gaps between steps as settlement knew them."""
    device, start_ns, end_ns = surprise
    claims: dict[Spanless, None] = {}
    for begin_ns, stop_ns, category, keys, reason in history.evidence_between(
        connection, agent_id, device.key, start_ns, end_ns
    ):
        for entity in keys.split(",") if keys else (NOBODY,):
            claim = Spanless(
                begin_ns, stop_ns, Category(category), device.group, int(entity), reason, device.key
            )
            claims[claim] = None
    for ring in rings:
        group = ring.group or 0
        pending = {gap.claim for gap in ring.gaps}
        for gap in ring.gaps:
            if gap.applied:
                claims[gap.claim] = None
        if ring.process_start_ns is not None and ring.first_root_ns is not None:
            startup = Spanless(
                ring.process_start_ns,
                ring.first_root_ns,
                Category.STARTUP,
                group,
                ring.run_entity,
                "",
            )
            if startup not in pending and startup.start_ns < startup.end_ns:
                claims[startup] = None
        for begin_ns, stop_ns in _between(ring, old):
            gap_claim = Spanless(
                begin_ns, stop_ns, Category.BETWEEN_STEPS, group, ring.run_entity, ""
            )
            if gap_claim not in pending:
                claims[gap_claim] = None
    return list(claims)


def _between(ring: RingState, old: NDArray[np.void]) -> list[tuple[int, int]]:
    mine = old[(old["ring"] == ring.key) & (old["category"] == int(Category.DIRECT))]
    if ring.last_step_end_ns is None:
        return []
    mine = mine[np.argsort(mine["start_ns"], kind="stable")]
    pairs = zip(mine["end_ns"][:-1].tolist(), mine["start_ns"][1:].tolist(), strict=True)
    return [(end_ns, start_ns) for end_ns, start_ns in pairs if end_ns < start_ns]


def _works(surprise: Surprise, connection: Connection, agent_id: int) -> list[DeviceWork]:
    """The settled interval again: its rates as they were, its energy spread by settlement."""
    device, start_ns, end_ns = surprise
    pieces = history.settlements_between(connection, agent_id, device.key, start_ns, end_ns)
    total_mj, knots, metered = 0, list[tuple[int, int]](), False
    for piece in pieces:
        if not knots or knots[-1][0] < piece.start_ns:
            knots.append((piece.start_ns, total_mj))
        metered |= piece.energy_mj is not None
        total_mj += piece.energy_mj or 0
        knots.append((piece.end_ns, total_mj))
    used = {piece.rate for piece in pieces}
    return [
        DeviceWork(
            device.key,
            device.group,
            start_ns,
            end_ns,
            [period for period in device.rates if period.rate in used],
            EnergyCurve.of(knots) if metered else None,
            device.energy_source,
        )
    ]
