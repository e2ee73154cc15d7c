"""What one ledger knows of runs: one SQLAlchemy Core statement for each figure.

Times of different nodes are put on one axis: node time plus the last offset that its agent knew
from the wall clock. Within a node that changes no order, and it is undone exactly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    SmallInteger,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    union_all,
)

from apportion.core.category import Category, Phase, PhaseClock, SpanKind, SpanStatus
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import (
    accrual,
    charge,
    device,
    entity,
    ring,
    ring_position,
    span,
)
from apportion.cost.sums import wide_sum
from apportion.cost.training.attempts import Process, ProcessKey, RunKey
from apportion.cost.training.lost_query import (
    finished_steps,
    in_vain,
    quantities,
    reason_of_loss,
)
from apportion.cost.training.rollback import EVER_NS, Rollback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Executable

    from apportion.cost.period import Period, WallTime

_PROGRESS: Final = (
    "first_step",
    "first_step_ns",
    "last_step",
    "last_step_ns",
    "resumed_step",
    "resumed_ns",
)


@dataclass(frozen=True, slots=True)
class Axis:
    """Node times of several agents on one axis, which is near the wall clock's."""

    offsets: Mapping[int, int]

    @classmethod
    def of(cls, wall: WallTime) -> Axis:
        """By the last offset that each agent knew."""
        return cls({agent: known[-1][1] for agent, known in wall.offsets.items() if known})

    def at(self, agent_id: int, node_ns: int | None) -> int | None:
        """An instant of an agent's node time."""
        return None if node_ns is None else node_ns + self.offsets.get(agent_id, 0)

    def node(self, agent_id: int, axis_ns: int) -> int:
        """The inverse."""
        return axis_ns if axis_ns == EVER_NS else axis_ns - self.offsets.get(agent_id, 0)

    def rollback(self, one: Rollback) -> Rollback:
        """The same in its agent's node time."""
        return one._replace(until_ns=self.node(one.process.agent_id, one.until_ns))


def processes(connection: Connection, axis: Axis) -> dict[RunKey, list[Process]]:
    """Every process that ran steps, by run."""
    query = (
        select(
            ring.c.agent_id,
            ring.c.ring_key,
            ring.c.identity,
            ring.c.attached_ns,
            ring.c.process_start_ns,
            ring_position.c.ended_ns,
            ring_position.c.closed,
            ring_position.c.step_failed,
            *(ring_position.c[name] for name in _PROGRESS),
        )
        .join(
            ring_position,
            and_(
                ring_position.c.agent_id == ring.c.agent_id,
                ring_position.c.ring_key == ring.c.ring_key,
            ),
        )
        .where(
            or_(
                ring_position.c.first_step_ns.is_not(None),
                ring_position.c.resumed_step.is_not(None),
            )
        )
    )
    found: dict[RunKey, list[Process]] = {}
    for row in rows(connection, query):
        agent_id, key, identity, attached_ns, born_ns, ended_ns, closed, failed, *progress = row
        said: dict[str, Any] = json.loads(identity)
        if said.get("run") is None:
            continue
        manifest: dict[str, str] = said.get("manifest") or {}
        known = dict(zip(_PROGRESS, progress, strict=True))
        for name in ("first_step_ns", "last_step_ns", "resumed_ns"):
            known[name] = axis.at(agent_id, known[name])
        process = Process(
            ProcessKey(agent_id, key),
            said.get("attempt") or "",
            axis.at(agent_id, attached_ns) or 0,
            axis.at(agent_id, born_ns),
            axis.at(agent_id, ended_ns),
            clean=bool(closed) and not failed,
            rank=said.get("rank"),
            world_size=said.get("world_size"),
            restart_count=said.get("restart_count"),
            manifest=tuple(manifest.items()),
            **known,
        )
        found.setdefault(RunKey(said.get("workload"), said["run"]), []).append(process)
    return found


def entities() -> Executable:
    """Who belongs to a run: agent, entity, workload, run, attempt."""
    names = [entity.c[name] for name in ("agent_id", "entity_key", "workload", "run", "attempt")]
    return select(*names).where(entity.c.run.is_not(None))


def simulated_agents() -> Executable:
    """Agents that meter simulated devices."""
    return select(device.c.agent_id).where(device.c.simulated != 0).distinct()


def cost(period: Period, since: Sequence[tuple[int, Sequence[int], int, int]]) -> Executable:
    """Sums by agent, entity, part, category, phase, and reason of a loss.

    `since` are (agent, entities, node time, part) by descending time: lines of these entities
    that begin at that time or later are in that part, all others in part 0.
    """
    posted = select(
        charge.c.agent_id,
        charge.c.entity_key,
        charge.c.start_ns,
        charge.c.category,
        charge.c.phase,
        charge.c.ring_key,
        charge.c.number,
        charge.c.device_ns,
        charge.c.units,
        charge.c.energy_mj,
        charge.c.priced_ns,
    ).where(period.holds(charge.c.agent_id, charge.c.start_ns))
    running = select(
        accrual.c.agent_id,
        accrual.c.entity_key,
        accrual.c.start_ns,
        accrual.c.category,
        cast(null(), SmallInteger).label("phase"),
        accrual.c.ring_key,
        accrual.c.number,
        accrual.c.device_ns,
        accrual.c.units,
        accrual.c.energy_mj,
        cast(null(), BigInteger).label("priced_ns"),
    ).where(period.holds(accrual.c.agent_id, accrual.c.bucket_ns))
    every = union_all(posted, running).subquery("every")
    part: ColumnElement[int] = literal(0)
    if since:
        part = case(
            *(
                (
                    and_(
                        every.c.agent_id == agent_id,
                        every.c.entity_key.in_(entity_keys),
                        every.c.start_ns >= node_ns,
                    ),
                    number,
                )
                for agent_id, entity_keys, node_ns, number in since
            ),
            else_=0,
        )
    # In a subquery: an expression with parameters cannot be grouped by on PostgreSQL.
    loss = reason_of_loss(every.c).label("loss")
    line = select(every, part.label("part"), loss).subquery("line")
    names = ("agent_id", "entity_key", "part", "category", "phase", "loss")
    keys = [line.c[name] for name in names]
    return (
        select(*keys, *quantities(line.c))
        .join(
            entity,
            and_(entity.c.agent_id == line.c.agent_id, entity.c.entity_key == line.c.entity_key),
        )
        .where(entity.c.run.is_not(None))
        .group_by(*keys)
    )


def open_steps(members: Iterable[ProcessKey]) -> Executable:
    """The `Quantity` that the running sums of these processes' open spans have as `direct`."""
    chosen = [
        and_(accrual.c.agent_id == one.agent_id, accrual.c.ring_key == one.ring) for one in members
    ]
    priced_ns = cast(null(), BigInteger).label("priced_ns")
    line = (
        select(accrual, priced_ns)
        .where(or_(false(), *chosen), accrual.c.category == int(Category.DIRECT))
        .subquery("line")
        .c
    )
    return select(*quantities(line))


def step_ranges(
    members: Iterable[ProcessKey], period: Period, vain: Sequence[Rollback]
) -> Executable:
    """(first, last) of the runs of numbers that finished steps of `members` have, `vain` excepted.

    Each number once, however many ranks ran it.
    """
    numbers = (
        select(span.c.step)
        .where(_of(members), *_ended(period), span.c.step.is_not(None), not_(in_vain(vain)))
        .distinct()
        .subquery("number")
    )
    place = func.row_number().over(order_by=numbers.c.step)
    islands = select(numbers.c.step, (numbers.c.step - place).label("island")).subquery("island")
    return (
        select(func.min(islands.c.step), func.max(islands.c.step))
        .group_by(islands.c.island)
        .order_by(func.min(islands.c.step))
    )


def steps_without_number(members: Iterable[ProcessKey], period: Period) -> Executable:
    """How many each of the processes has."""
    return (
        select(func.count())
        .where(_of(members), *_ended(period), span.c.step.is_(None))
        .group_by(span.c.agent_id, span.c.ring_key)
    )


def tokens(members: Iterable[ProcessKey], period: Period, vain: Sequence[Rollback]) -> Executable:
    """Training tokens of finished steps, over all ranks; and of those that are not `vain`."""
    kept = case((not_(in_vain(vain)), span.c.tokens))
    sums = select(wide_sum(span.c.tokens), wide_sum(kept))
    return sums.where(_of(members), *_ended(period))


def checkpoints(members: Iterable[ProcessKey], period: Period) -> Executable:
    """Of each process: agent, ring, how many it saved, first and last start, time in all.

    Those inside steps are counted too.
    """
    return (
        select(
            span.c.agent_id,
            span.c.ring_key,
            func.count(),
            func.min(span.c.start_ns),
            func.max(span.c.start_ns),
            wide_sum(span.c.end_ns - span.c.start_ns),
        )
        .where(
            _of(members),
            or_(
                span.c.kind == int(SpanKind.CHECKPOINT),
                and_(
                    span.c.kind == int(SpanKind.PHASE),
                    span.c.phase == int(Phase.CHECKPOINT),
                    span.c.phase_clock != int(PhaseClock.DEVICE),  # the same one once more
                ),
            ),
            span.c.status == int(SpanStatus.OK),
            period.holds(span.c.agent_id, span.c.end_ns),
        )
        .group_by(span.c.agent_id, span.c.ring_key)
    )


def _of(members: Iterable[ProcessKey]) -> ColumnElement[bool]:
    by_agent: dict[int, list[int]] = {}
    for agent_id, key in sorted(members):
        by_agent.setdefault(agent_id, []).append(key)
    return or_(
        false(),
        *(
            and_(span.c.agent_id == agent_id, span.c.ring_key.in_(keys))
            for agent_id, keys in by_agent.items()
        ),
    )


def _ended(period: Period) -> tuple[ColumnElement[bool], ...]:
    # A rank whose step fails because another one died has finished nothing, though it ended it.
    well = span.c.status == int(SpanStatus.OK)
    return finished_steps(), well, period.holds(span.c.agent_id, span.c.end_ns)
