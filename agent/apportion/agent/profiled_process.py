"""Which process a workload is, as the agent has written it down."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import and_, select

from apportion.core.errors import ProfilerError
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import ring, ring_position


@dataclass(frozen=True, slots=True, order=True)
class ProfiledProcess:
    """A live process of a workload. pid: as the agent sees it. ring: its ring's name."""

    rank: int
    pid: int
    ring: str

    @classmethod
    def of(
        cls, ledger: LedgerReader, workload: str, boot_id: str, rank: int | None
    ) -> ProfiledProcess:
        """The live process of `workload` with the given rank, else with the lowest one.

        boot_id: of this host's boot: pids of others mean nothing here.

        Raises:
            ProfilerError: there is none.
        """
        query = (
            select(ring.c.boot_id, ring.c.identity, ring.c.ring)
            .join(
                ring_position,
                and_(
                    ring_position.c.agent_id == ring.c.agent_id,
                    ring_position.c.ring_key == ring.c.ring_key,
                ),
            )
            .where(ring_position.c.ended_ns.is_(None))
        )
        with ledger.read() as connection:
            known = rows(connection, query)
        boot = boot_id.replace("-", "")
        found: list[ProfiledProcess] = []
        names: set[str] = set()
        ranks: set[int] = set()
        for own_boot, identity, own_ring in known:
            said = json.loads(identity)
            name = said.get("workload")
            if own_boot.replace("-", "") != boot or said.get("pid") is None or name is None:
                continue
            names.add(name)
            own_rank = said.get("rank") or 0
            if name == workload:
                ranks.add(own_rank)
            if name == workload and rank in {None, own_rank}:
                found.append(cls(own_rank, said["pid"], own_ring))
        if not found:
            which = "" if rank is None else f" of rank {rank}"
            others = f"; live ones: {', '.join(sorted(names))}" if names else ""
            if ranks:
                others = f"; its live ranks: {', '.join(map(str, sorted(ranks)))}"
            raise ProfilerError(
                f"no live process{which} of workload {workload!r} is in ledger {ledger.name}"
                f"{others}; give its --pid",
                "gone",
            )
        return min(found)
