"""Ring states to the ledger and back: what a restart needs to go on as if nothing had happened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.open_root import OpenRoot
from apportion.agent.pipeline.reapportion import claim_of
from apportion.agent.pipeline.ring_state import RingState
from apportion.agent.pipeline.server_engines import ServerEngines
from apportion.agent.pipeline.step_progress import StepProgress
from apportion.agent.pipeline.surprises import HISTORY_NS
from apportion.client.layout import MEMBER
from apportion.core.category import Phase, PhaseClock, SpanKind, SpanStatus
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.ledger.history import RootRow
from apportion.cost.ledger.schema import span as span_table
from apportion.cost.settlement.phases import PhaseSlice
from apportion.cost.settlement.work import NOBODY, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from apportion.agent.pipeline.registry import Registry
    from apportion.cost.ledger.batch import LedgerState, Row
    from apportion.cost.ledger.history import History

_COLUMN: Final = {
    column.name: index
    for index, column in enumerate(c for c in span_table.c if c.name != "agent_id")
}
_STATE: Final = "settlement"
"""Member of a position's JSON that is settlement's own; the rest is the reader's."""
RECALL_NS: Final = 30 * NS_PER_MINUTE
"""A device that lags behind the others by more than this is settled without older spans."""
PHASES_NS: Final = 2 * NS_PER_MINUTE
"""A span that is recalled has no phases that ended so long before what is not settled yet."""


def position_row(ring: RingState, position: str, charged_ns: int | None) -> Row:
    """The row of `ring_position`: how far the ring was read, and its state in settlement.

    It holds once what ended up to `charged_ns` is charged; None: the ring is unbound.
    """
    document: dict[str, Any] = json.loads(position) if position else {}
    counts = (document.get("lost", 0), document.get("abandoned", 0))
    document[_STATE] = {
        "admits_from": ring.admits_from,
        "next_sequence": ring.next_sequence,
        "unapplied": not ring.bindings,
        "open": [span.to_json() for span in ring.open.values()],
        "losses": [(loss.start_ns, loss.end_ns) for loss in ring.losses_after(charged_ns)],
    }
    return (
        ring.key,
        json.dumps(document, separators=(",", ":")),
        *counts,
        ring.ended_ns,
        ring.startup_end_ns,
        ring.steps_end_at(charged_ns),
        int(ring.admits_from is not None),
        int(ring.closed),
        *ring.progress.to_row(),
    )


def read_position(text: str) -> dict[str, Any] | None:
    """The reader's position out of a row of `ring_position`; None where nothing was read yet."""
    document: dict[str, Any] = json.loads(text) if text else {}
    document.pop(_STATE, None)
    return document or None


def restore_rings(state: LedgerState, registry: Registry, latest_ns: int) -> dict[int, RingState]:
    """The rings that may still matter, at `latest_ns`. The first tick recalls their spans."""
    positions = {row[0]: row for row in state.tables.get("ring_position", [])}
    rings: dict[int, RingState] = {}
    for key, _, _, identity, attached_ns, process_start_ns in state.tables.get("ring", []):
        said = json.loads(identity)
        ring = RingState(key, run_entity(registry, said), attached_ns, said.get("pid") or 0)
        ring.process_start_ns = process_start_ns
        ring.rank, ring.restart_count = said.get("rank"), said.get("restart_count")
        ring.flops_per_token = said.get("flops_per_token")
        ring.is_member = said.get("kind") == MEMBER
        ring.engines = ServerEngines.of(said.get("parallel") or {})
        if key in positions:
            _restore_position(ring, positions[key])
        if ring.ended_ns is None or ring.ended_ns > latest_ns - HISTORY_NS:
            rings[key] = ring
    for key, since_ns, group, _ in sorted(state.tables.get("binding", []), key=lambda row: row[1]):
        if key in rings:
            engines = registry.engine_groups(rings[key].engines, group)
            rings[key].bind(since_ns, group, engines)
    for ring in rings.values():
        ring.recalled = False
        if ring.bindings:
            ring.startup_applied = ring.startup_end_ns is not None
            for span in ring.open.values():
                span.apply(admits=ring.admits_from is not None)
    return rings


def recall(
    rings: Iterable[RingState],
    registry: Registry,
    settled_by_device: Mapping[int, int],
    history: History,
) -> None:
    """Bring back those spans of `rings` that some of their devices are still to be settled with.

    After a restart, where a ring was bound at last, and where a device came back.
    """
    latest_ns = max(settled_by_device.values(), default=0)
    since: dict[int, int] = {}
    by_ring: dict[int, list[Row]] = {}
    for ring in rings:
        marks = [
            settled_by_device[device]
            for spell in ring.spells()
            for device in registry.groups.value(spell.group)
            if device in settled_by_device
        ]
        since[ring.key] = max(min(marks, default=latest_ns), latest_ns - RECALL_NS)
    if since:
        for row in history.spans_since(since, min(since.values()) - PHASES_NS):
            by_ring.setdefault(row[_COLUMN["ring_key"]], []).append(row)
    for ring in rings:
        after_ns = since[ring.key]
        restore_spans(ring, by_ring.get(ring.key, []), after_ns)
        if ring.unapplied or ring.steps_end_ns is not None:
            oldest_ns = after_ns - HISTORY_NS
            ring.steps_end_ns = history.step_end_before(ring.key, after_ns, oldest_ns)
        ring.recalled = True


def restore_spans(ring: RingState, rows: Sequence[Row], after_ns: int) -> None:
    """Put what ended after `after_ns` back, from rows of `span`, and the phases of all."""
    known_numbers = set(ring.ended()["number"].tolist())
    kind, end, number = _COLUMN["kind"], _COLUMN["end_ns"], _COLUMN["number"]
    parent, phase, clock = _COLUMN["parent"], _COLUMN["phase"], _COLUMN["phase_clock"]
    chosen: list[Row] = []
    # Inner spans have larger numbers than what they lie in, so they come first.
    for row in sorted(rows, key=lambda row: row[number], reverse=True):
        if row[parent] or row[kind] == SpanKind.PHASE:
            piece = PhaseSlice(
                Phase(row[phase]),
                row[_COLUMN["start_ns"]],
                row[end],
                row[number],
                PhaseClock(row[clock]),
            )
            ring.phases.add(row[number], row[parent], piece)
        elif row[end] > after_ns and row[number] not in known_numbers:
            chosen.append(row)
        else:
            ring.phases.forget([row[number]])
    roots = np.zeros(len(chosen), dtype=ROOT)
    for root, row in zip(roots, reversed(chosen), strict=True):
        known = RootRow(*(row[_COLUMN[name]] for name in _ROOT_COLUMNS))
        root["start_ns"], root["end_ns"] = claim_of(ring, known), known.end_ns
        root["first_token_ns"], root["number"] = known.first_token_ns or 0, known.number
        root["ring"], root["entity"] = ring.key, known.entity or NOBODY
        root["input_tokens"] = known.input_tokens or 0
        root["cached_input_tokens"] = known.cached_input_tokens or 0
        root["output_tokens"] = known.output_tokens or 0
        root["engine"] = 0 if known.engine is None else known.engine + 1
        root["category"] = int(SpanKind(known.kind).category)
        root["step"] = known.kind == SpanKind.STEP
        root["incomplete"] = known.status == SpanStatus.OPEN
        if known.status == SpanStatus.LOST and known.kind == SpanKind.STEP:
            ring.lost.add(known.number)
    if not ring.unapplied:
        roots["applied_start_ns"], roots["applied_end_ns"] = roots["start_ns"], roots["end_ns"]
    ring.restore(roots)


_ROOT_COLUMNS: Final = (
    "ring_key",
    "sequence",
    "number",
    "kind",
    "status",
    "entity_key",
    "start_ns",
    "scheduled_ns",
    "first_token_ns",
    "end_ns",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "step",
    "engine",
)


def _restore_position(ring: RingState, row: Row) -> None:
    _, position, _, _, ring.ended_ns, ring.startup_end_ns, ring.steps_end_ns, _, closed = row[:9]
    ring.closed, ring.progress = bool(closed), StepProgress.from_row(row[9:])
    document: dict[str, Any] = json.loads(position).get(_STATE, {}) if position else {}
    ring.admits_from = document.get("admits_from")
    ring.next_sequence = document.get("next_sequence", 1)
    ring.unapplied = document.get("unapplied", False)
    ring.losses = [Interval(*edges) for edges in document.get("losses", [])]
    for span in document.get("open", []):
        open_root = OpenRoot.from_json(span)
        ring.open[open_root.number] = open_root


def run_entity(registry: Registry, said: Mapping[str, object]) -> int:
    """The entity that a ring's own time goes to: its workload and run."""
    texts = {name: said.get(name) for name in ("workload", "run", "attempt")}
    return registry.entities.key(
        EntityKey(**{name: text for name, text in texts.items() if isinstance(text, str)})
    )
