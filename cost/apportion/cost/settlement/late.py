"""What is learnt too late: cost that settlement has given away already is moved, never edited.

The settled past is apportioned twice, as it was known and as it is known now; the differences
are reallocation lines. Both sides divide the same meter, so the lines sum to zero exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from apportion.core.category import Category, Phase
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.batch import UNADJUSTED, ChargeKind
from apportion.cost.methods.names import BY_NEED, Method
from apportion.cost.settlement.phases import PhaseSlice, phase_durations, split
from apportion.cost.settlement.settle import settle
from apportion.cost.settlement.work import spanless_method

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from apportion.cost.apportionment import Apportioner
    from apportion.cost.ledger.batch import Row
    from apportion.cost.rounding import Tie
    from apportion.cost.settlement.settle import Settled
    from apportion.cost.settlement.work import DeviceWork, Roots, Spanless


class Payer(NamedTuple):
    """Who an amount is with. `ring` and `number` are 0 for time without a span."""

    group: int
    category: Category
    entity: int
    ring: int
    number: int
    reason: str
    phase: Phase = Phase.NONE
    """Where a method told phases; `NONE`: they are divided by time."""
    method: int = int(Method.TIME_SHARE)


class MoveKey(NamedTuple):
    """A payer within a clock hour and at one rate."""

    payer: Payer
    hour_ns: int
    rate: int


class Move(NamedTuple):
    """A signed amount; the moves of one reallocation sum to zero in every column and rate."""

    device_ns: int
    energy_mj: int | None
    units: int | None


class Known(NamedTuple):
    """The work of an interval, as it was known at one time."""

    roots: Roots
    spanless: Sequence[Spanless]


def reallocate(
    devices: Sequence[DeviceWork],
    before: Known,
    after: Known,
    groups: Mapping[int, Sequence[int]],
    *,
    apportioner: Apportioner,
    tie: Callable[[Known], Tie],
) -> dict[MoveKey, Move]:
    """The moves that turn the outcome of `before` into that of `after` over settled intervals."""
    moves: dict[MoveKey, list[int | None]] = {}
    for known, sign in ((before, -1), (after, 1)):
        settled = settle(
            devices, known.roots, known.spanless, groups, apportioner=apportioner, tie=tie(known)
        )
        _collect(settled, sign, moves)
    return {
        key: Move(amounts[0] or 0, amounts[1], amounts[2])
        for key, amounts in sorted(moves.items())
        if any(amounts)
    }


def _collect(settled: Settled, sign: int, moves: dict[MoveKey, list[int | None]]) -> None:
    payers: dict[int, Payer] = {}
    for bucket, amounts in settled.by_bucket.items():
        hour_ns = bucket.minute_ns - bucket.minute_ns % NS_PER_HOUR
        size = amounts.rows.size
        units = [None] * size if amounts.units is None else amounts.units.tolist()
        columns = (amounts.device_ns, amounts.energy_mj, amounts.metered, amounts.prefill_ns)
        values = [column.tolist() for column in columns]
        for index, device_ns, energy_mj, metered, prefill_ns, cost in zip(
            amounts.rows.tolist(), *values, units, strict=True
        ):
            payer = payers.get(index)
            if payer is None:
                payer = payers[index] = _payer(settled, index)
            parts = [(payer, device_ns, energy_mj if metered else None, cost)]
            by_need = payer.method in BY_NEED and payer.ring
            if by_need and settled.roots["first_token_ns"][index] > 0:
                parts = _by_phase(payer, parts[0][1:], prefill_ns)
            for part, *values_of in parts:
                row = moves.setdefault(MoveKey(part, hour_ns, bucket.rate), [0, None, None])
                for place, value in enumerate(values_of):
                    if value is not None:
                        row[place] = (row[place] or 0) + sign * value


def _by_phase(
    payer: Payer, amounts: tuple[int, int | None, int | None], prefill_ns: int
) -> list[tuple[Payer, int, int | None, int | None]]:
    """A request's amounts in prefill and in decode, as the method divided its time."""
    durations = [(Phase.PREFILL, prefill_ns), (Phase.DECODE, amounts[0] - prefill_ns)]
    if amounts[0] <= 0:
        durations = [(Phase.PREFILL, 0), (Phase.DECODE, 1)]
    columns = [[None, None] if a is None else split(a, durations) for a in amounts]
    times, energies, costs = columns
    return [
        (payer._replace(phase=phase), times[place] or 0, energies[place], costs[place])
        for place, (phase, _) in enumerate(durations)
    ]


def _payer(settled: Settled, index: int) -> Payer:
    if index < settled.roots.size:
        root = settled.roots[index]
        return Payer(
            int(root["group"]),
            Category(int(root["category"])),
            int(root["entity"]),
            int(root["ring"]),
            int(root["number"]),
            "",
            method=max(int(root["method"]), int(Method.TIME_SHARE)),
        )
    claim = settled.spanless[index - settled.roots.size]
    method = int(spanless_method(claim.reason))
    whose = (claim.group, claim.category, claim.entity)
    return Payer(*whose, 0, 0, claim.reason, method=method)


def reallocation_rows(
    moves: Mapping[MoveKey, Move],
    *,
    period: tuple[int, int],
    reason: str,
    roots: Roots,
    slices: Callable[[int, int], list[PhaseSlice]],
    first_charge_key: int,
    posted_ns: int,
) -> list[Row]:
    """The ledger lines of `moves`; a span's is divided among its phases as its charge is."""
    payers = {(key.payer.ring, key.payer.number) for key in moves if key.payer.ring}
    facts = {
        pair: root
        for pair, root in zip(
            zip(roots["ring"].tolist(), roots["number"].tolist(), strict=True), roots, strict=True
        )
        if pair in payers
    }
    rows: list[Row] = []
    for key, move in moves.items():
        start_ns = max(period[0], key.hour_ns)
        end_ns = max(start_ns, min(period[1], key.hour_ns + NS_PER_HOUR))
        durations = phase_durations(start_ns, end_ns, 0, [])
        root = facts.get((key.payer.ring, key.payer.number))
        if root is not None:
            # Its life in that hour, not the interval's part of it: that may be before its start.
            durations = phase_durations(
                max(int(root["start_ns"]), key.hour_ns),
                min(int(root["end_ns"]), key.hour_ns + NS_PER_HOUR),
                int(root["first_token_ns"]),
                slices(key.payer.ring, key.payer.number),
            )
        if key.payer.phase:
            durations = [(key.payer.phase, 1)]
        times = split(move.device_ns, durations)
        energies = None if move.energy_mj is None else split(move.energy_mj, durations)
        costs = None if move.units is None else split(move.units, durations)
        for index, (phase, _) in enumerate(durations):
            rows.append(
                (
                    first_charge_key + len(rows),
                    int(ChargeKind.REALLOCATION),
                    key.payer.group,
                    int(key.payer.category),
                    int(phase) or None,
                    key.payer.entity or None,
                    key.payer.ring or None,
                    key.payer.number or None,
                    start_ns,
                    end_ns,
                    posted_ns,
                    times[index],
                    None if energies is None else energies[index],
                    None if costs is None else costs[index],
                    key.rate or None,
                    key.payer.method,
                    reason,
                    0,
                    *UNADJUSTED,
                )
            )
    return rows
