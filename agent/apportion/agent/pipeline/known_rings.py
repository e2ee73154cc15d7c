"""All rings that may still matter: found in the ledger again, attached, written, forgotten."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from apportion.agent.pipeline.restore import position_row, recall, restore_rings, run_entity
from apportion.agent.pipeline.ring_state import RingState
from apportion.agent.pipeline.server_engines import ServerEngines
from apportion.agent.pipeline.surprises import HISTORY_NS
from apportion.client.layout import MEMBER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.agent.ingest import RingIdentity
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.agent.pipeline.registry import Registry
    from apportion.agent.pipeline.tick import TickOutcome
    from apportion.cost.ledger.batch import LedgerState, Row, TickBatch
    from apportion.cost.ledger.history import History


class KnownRings:
    """`states` by ring key. What ended long ago is forgotten: nothing is charged to it again."""

    def __init__(self, state: LedgerState, registry: Registry, time: NodeTime) -> None:
        self._registry, self._time = registry, time
        self._latest_ns = max((row[1] for row in state.tables.get("watermark", [])), default=0)
        self.states = restore_rings(state, registry, self._latest_ns)
        self._boots = {row[0]: row[2] for row in state.tables.get("ring", [])}
        self._written: dict[int, Row] = {
            row[0]: tuple(row)
            for row in state.tables.get("ring_position", [])
            if row[0] in self.states
        }
        self._positions: dict[int, str] = {key: row[1] for key, row in self._written.items()}

    def of_other_boots(self) -> list[tuple[RingState, int]]:
        """Rings that nobody has ended, of processes that are gone with their boot; and when."""
        return [
            (ring, max(self._latest_ns, ring.attached_ns))
            for key, ring in self.states.items()
            if ring.ended_ns is None and self._boots.get(key, self._time.boot) != self._time.boot
        ]

    def attach(self, identity: RingIdentity) -> RingState:
        """A ring that is being read from now on: its state, new or as the ledger has it."""
        registry, name = self._registry, str(identity.ring)
        is_new = name not in registry.rings
        key = registry.rings.key(name)
        known = self.states.get(key)
        if known is not None:
            return known
        pid = identity.host_pid or identity.pid
        said = {
            "pid": pid,
            "uid": identity.uid,
            "workload": identity.said.workload,
            "run": identity.said.run,
            "attempt": identity.said.attempt,
            "kind": identity.said.kind,
            "rank": identity.said.rank,
            "world_size": identity.said.world_size,
            "tags": dict(identity.said.tags),
            "restart_count": identity.said.restart_count,
            "resumed_from_step": identity.said.resumed_from_step,
            "flops_per_token": identity.said.flops_per_token,
            "manifest": dict(identity.said.manifest),
            "parallel": dict(identity.said.parallel),
        }
        attached_ns = self._time.of(identity.created_ns)
        start_ns = identity.process_start_ns or identity.init_ns
        process_start_ns = None if start_ns is None else self._time.of(start_ns)
        ring = RingState(key, run_entity(registry, said), attached_ns, pid, process_start_ns)
        ring.rank, ring.restart_count = identity.said.rank, identity.said.restart_count
        ring.flops_per_token = identity.said.flops_per_token
        ring.is_member = identity.said.kind == MEMBER
        ring.engines = ServerEngines.of(dict(identity.said.parallel))
        if identity.said.resumed_from_step is not None:
            ring.progress.resumed(identity.said.resumed_from_step, attached_ns)
        if is_new:
            boot = identity.boot_id.replace("-", "")
            times = (attached_ns, process_start_ns)
            registry.note_ring((key, name, boot, json.dumps(said), *times))
        else:  # forgotten because it is long dead: its file stayed in a directory of others
            ring.ended_ns = attached_ns
        self.states[key] = ring
        return ring

    def read_to(self, ring: RingState, position: str) -> None:
        """How far the ring has been read, as JSON."""
        self._positions[ring.key] = position

    def recall(self, history: History, settled: Mapping[int, int], returned: set[int]) -> None:
        """Bring back what is in the ledger and still to be settled; once, when it is needed.

        `settled` are watermarks by device, `returned` the devices that have just come back.
        """
        value = self._registry.groups.value
        for ring in self.states.values():
            if returned and any(returned & {*value(spell.group)} for spell in ring.spells()):
                ring.recalled = False
        waiting = [r for r in self.states.values() if r.bindings and not r.recalled]
        if waiting:
            recall(waiting, self._registry, settled, history)

    def write(self, batch: TickBatch, outcome: TickOutcome) -> None:
        """Add what differs from what the ledger has."""
        batch.replace("ring_position", list(self._news(outcome).values()))

    def committed(self, outcome: TickOutcome) -> int:
        """What `write` added is in the ledger. Returns how many spans had no devices."""
        self._written.update(self._news(outcome))
        unbound = 0
        for key, ring in list(self.states.items()):
            unbound += ring.committed(self._charged_ns(ring, outcome))
            if ring.ended_ns is not None and ring.ended_ns < outcome.limit_ns - HISTORY_NS:
                for kept in (self.states, self._written, self._positions):
                    kept.pop(key, None)
        return unbound

    def _charged_ns(self, ring: RingState, outcome: TickOutcome) -> int | None:
        if not ring.bindings:
            return None
        value = self._registry.groups.value
        return ring.charged_ns(lambda group: outcome.settled_ns(value(group)))

    def _news(self, outcome: TickOutcome) -> dict[int, Row]:
        rows: dict[int, Row] = {}
        for key, ring in self.states.items():
            charged_ns = self._charged_ns(ring, outcome)
            row = position_row(ring, self._positions.get(key, ""), charged_ns)
            if row != self._written.get(key):
                rows[key] = row
        return rows
