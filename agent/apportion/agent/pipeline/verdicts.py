"""What each device's time without a span was: claims for settlement, rows for the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.core.category import Category
from apportion.core.interval import Interval, union
from apportion.cost.idle_power import IdleState
from apportion.cost.ledger.history import LONGEST_NS
from apportion.cost.settlement.evidence import Verdict, judge
from apportion.cost.settlement.work import NOBODY, Spanless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apportion.agent.pipeline.device import MeteredDevice
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.idle_power import Rest
    from apportion.cost.ledger.batch import Row
    from apportion.cost.settlement.work import Roots

LOST_RECORDS: Final = "records_lost"


class Verdicts(NamedTuple):
    """Of one device and tick. `last` is the latest one, which the next tick may prolong.

    `rests` are the windows in which the device was seen to do nothing at all.
    """

    claims: list[Spanless]
    rows: list[Row]
    last: Verdict | None
    rests: list[Rest]


def verdicts(
    device: MeteredDevice,
    target_ns: int,
    rings: Sequence[RingState],
    roots: Roots,
    *,
    patience_ns: int,
    users_of: Callable[[], Sequence[int]],
    holders_of: Callable[[], Sequence[int]],
    last: Verdict | None,
) -> Verdicts:
    """Judge the reading windows of `device` up to `target_ns`.

    `rings` and `roots` are those that use the device; `users_of` gives the entities of other
    processes on it, `holders_of` those of the pods and jobs that were given it; they are asked
    only where no ring holds it. `last` is the verdict before these.
    """
    since_ns = device.settled_ns
    # A process that is gone uses nothing: its silence is no evidence that the device was quiet.
    living = [ring for ring in rings if ring.ended_ns is None or ring.ended_ns > since_ns]
    pids = {ring.pid for ring in living} if device.info.source == "cpu" else None
    rows: list[Row] = []
    claims: list[Spanless] = []
    rests: list[Rest] = []
    for window in device.windows(target_ns, patience_ns=patience_ns, cpu_of=pids):
        inside = roots[(roots["start_ns"] < window.end_ns) & (roots["end_ns"] > window.start_ns)]
        covered_ns = _covered_ns(inside, window.start_ns, window.end_ns)
        loaders = sorted({ring.run_entity for ring in rings if ring.holds(window.start_ns)})
        holders: Sequence[int] = loaders
        if not holders and window.activity_ratio is not None:
            holders = holders_of()
        users = () if holders or window.activity_ratio is None else users_of()
        judged = judge(window, covered_ns, holders, users, _members(rings, window.start_ns))
        if _own_energy(device) and window.is_rest(covered_ns):
            # Who was only given the device has nothing on it.
            is_loaded = bool(loaders or users or (holders and users_of()))
            rests.append(window.rest(IdleState.LOADED if is_loaded else IdleState.EMPTY))
        for verdict in _without_losses(judged, rings):
            claims += _claims(device, verdict)
            last = verdict if last is None else _joined(last, verdict)
            row = _row(device.key, last)
            if rows and rows[-1][:2] == row[:2]:
                rows[-1] = row
            else:
                rows.append(row)
    return Verdicts(claims, rows, last, rests)


def _members(rings: Sequence[RingState], time_ns: int) -> list[int]:
    """Entities of the workers that compute for requests of another node, once they are ready."""
    ready = (ring for ring in rings if ring.is_member and ring.startup_end_ns is not None)
    return sorted(
        {
            ring.run_entity
            for ring in ready
            if ring.holds(time_ns) and (ring.startup_end_ns or 0) <= time_ns
        }
    )


def _own_energy(device: MeteredDevice) -> bool:
    """Whether what it uses while it is quiet is its own, and nobody's who is not seen here.

    Of the CPU device only instrumented processes are seen; the energy of a part of a GPU is a
    share of what its neighbours use.
    """
    is_share = (device.energy_source or "").endswith("_share")
    return device.info.source != "cpu" and not is_share


def _covered_ns(roots: Roots, start_ns: int, end_ns: int) -> int:
    """How much of [start, end) at least one of `roots` covers."""
    if not roots.size:
        return 0
    order = np.argsort(roots["start_ns"], kind="stable")
    starts = np.clip(roots["start_ns"][order], start_ns, end_ns)
    ends = np.clip(np.maximum.accumulate(roots["end_ns"][order]), start_ns, end_ns)
    reached = np.concatenate([starts[:1], ends[:-1]])
    return int(np.maximum(ends - np.maximum(starts, reached), 0).sum())


def _without_losses(verdict: Verdict, rings: Sequence[RingState]) -> Iterator[Verdict]:
    """Where records were lost nobody knows: what no span covers there is `unattributed`."""
    whole = Interval(verdict.start_ns, verdict.end_ns)
    losses = union(loss.clip(whole) for ring in rings for loss in ring.losses)
    for piece in whole.split(edge for loss in losses for edge in (loss.start_ns, loss.end_ns)):
        if any(loss.start_ns <= piece.start_ns < loss.end_ns for loss in losses):
            edges = (piece.start_ns, piece.end_ns)
            yield Verdict(*edges, Category.UNATTRIBUTED, (), LOST_RECORDS)
        else:
            yield verdict._replace(start_ns=piece.start_ns, end_ns=piece.end_ns)


def _joined(last: Verdict, verdict: Verdict) -> Verdict:
    """Both in one where they say the same and meet within `LONGEST_NS`; else the second."""
    same = last[1:] == (verdict.start_ns, *verdict[2:])
    short = verdict.end_ns - last.start_ns <= LONGEST_NS
    return verdict._replace(start_ns=last.start_ns) if same and short else verdict


def _claims(device: MeteredDevice, verdict: Verdict) -> list[Spanless]:
    return [
        Spanless(
            verdict.start_ns,
            verdict.end_ns,
            verdict.category,
            device.group,
            entity,
            verdict.reason,
            device.key,
        )
        for entity in verdict.entities or (NOBODY,)
    ]


def _row(device: int, verdict: Verdict) -> Row:
    entities = ",".join(map(str, verdict.entities))
    edges = (verdict.start_ns, verdict.end_ns)
    return (device, *edges, int(verdict.category), entities, verdict.reason)
