"""Ring states after a restart, from what the ledger has of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.ring_state import RingState
from apportion.core.category import Phase, PhaseClock, SpanKind
from apportion.cost.ledger.schema import span as span_table
from apportion.cost.settlement.phases import PhaseSlice
from apportion.cost.settlement.work import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from apportion.agent.pipeline.registry import Registry
    from apportion.cost.ledger.batch import LedgerState, Row

_COLUMN: Final = {
    column.name: index
    for index, column in enumerate(c for c in span_table.c if c.name != "agent_id")
}


def restore_rings(
    state: LedgerState,
    registry: Registry,
    settled_by_device: Mapping[int, int],
    accrued: Collection[tuple[int, ...]],
    boot: str,
) -> dict[int, RingState]:
    """The rings of this boot that may still matter, with the spans that are not charged yet.

    `settled_by_device` are the watermarks; `accrued` the (group, category, entity, ring,
    number) that have running sums: a span with one was part of what is settled.
    """
    rings: dict[int, RingState] = {}
    positions = {row[0]: row for row in state.tables.get("ring_position", [])}
    groups: dict[int, int] = {}
    for ring_key, _, group, _ in sorted(state.tables.get("binding", []), key=lambda row: row[1]):
        groups[ring_key] = group
    members = dict(registry.groups.items())
    for row in state.tables.get("ring", []):
        ring_key, _, boot_id, identity, attached_ns, process_start_ns = row
        said = json.loads(identity)
        ring = RingState(ring_key, run_entity(registry, said), attached_ns, said.get("pid") or 0)
        ring.process_start_ns = process_start_ns
        ring.group = groups.get(ring_key)
        position = positions.get(ring_key)
        if position is not None:
            *_, ended_ns, first_root_ns, last_step_end_ns, admits = position
            ring.ended_ns, ring.first_root_ns = ended_ns, first_root_ns
            ring.last_step_end_ns, ring.admits = last_step_end_ns, bool(admits)
        if boot_id != boot and ring.ended_ns is None:
            ring.ended_ns = max(settled_by_device.values(), default=attached_ns)
        rings[ring_key] = ring
    pairs = {(key[3], key[4]) for key in accrued}
    for ring_key, spans in _by_ring(state.spans).items():
        ring = rings[ring_key]
        settled_ns = min(
            (
                settled_by_device[key]
                for key in members.get(ring.group or 0, ())
                if key in settled_by_device
            ),
            default=0,
        )
        _restore_spans(ring, spans, settled_ns, pairs)
    return rings


def run_entity(registry: Registry, said: Mapping[str, object]) -> int:
    """The entity that a ring's own time goes to: its workload and run."""
    texts = {name: said.get(name) for name in ("workload", "run", "attempt")}
    return registry.entities.key(
        EntityKey(**{name: text for name, text in texts.items() if isinstance(text, str)})
    )


def _by_ring(spans: list[Row]) -> dict[int, list[Row]]:
    by_ring: dict[int, list[Row]] = {}
    for row in spans:
        by_ring.setdefault(row[_COLUMN["ring_key"]], []).append(row)
    return by_ring


def _restore_spans(
    ring: RingState, spans: list[Row], settled_ns: int, accrued: Collection[tuple[int, int]]
) -> None:
    """Roots that end after the watermark, or that have a running sum, and their phases."""
    roots: list[tuple[object, ...]] = []
    for row in sorted(spans, key=lambda row: row[_COLUMN["number"]], reverse=True):
        value = {name: row[index] for name, index in _COLUMN.items()}
        kind, number = SpanKind(value["kind"]), value["number"]
        if kind is SpanKind.PHASE:
            piece = PhaseSlice(
                Phase(value["phase"]),
                value["start_ns"],
                value["end_ns"],
                number,
                PhaseClock(value["phase_clock"]),
            )
            ring.restore_phase(number, value["parent"], piece)
            continue
        if value["parent"]:
            continue
        has_accrual = (ring.key, number) in accrued
        if value["end_ns"] <= settled_ns and not has_accrual:
            continue
        start_ns = value["start_ns"]
        if kind is SpanKind.REQUEST:
            waited = value["end_ns"] if ring.admits else start_ns
            start_ns = min(value["scheduled_ns"] or waited, value["end_ns"])
        roots.append(
            (
                start_ns,
                value["end_ns"],
                value["first_token_ns"] or 0,
                number,
                ring.key,
                value["entity_key"] or 0,
                ring.group or 0,
                int(kind.category),
                False,
                False,
                has_accrual or start_ns >= settled_ns,
            )
        )
        if kind is SpanKind.STEP and value["status"] == 4:  # noqa: PLR2004 - SpanStatus.LOST
            ring.lost.add(number)
    ring.pending = np.array(roots[::-1], dtype=ROOT)
