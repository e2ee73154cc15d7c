"""One tick: divide each device's time among the work of the tick, device by device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apportion.core.category import Category
from apportion.core.interval import Interval, subtract, union
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.apportionment import Claims, Shares, Windows, apportion
from apportion.cost.methods.names import BY_NEED
from apportion.cost.settlement.amounts import Amounts
from apportion.cost.settlement.work import NOBODY, Spanless

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from apportion.cost.apportionment import Apportioner
    from apportion.cost.rounding import Tie
    from apportion.cost.settlement.work import DeviceWork, Roots

    Column = NDArray[np.int64]


class Bucket(NamedTuple):
    """Amounts are kept apart by clock minute and rate."""

    minute_ns: int
    rate: int


class SettlementRow(NamedTuple):
    """The meter's side of one device and segment."""

    device: int
    start_ns: int
    end_ns: int
    rate: int
    units: int | None
    energy_mj: int | None
    energy_source: str | None
    idle_mw: int | None


class PartRow(NamedTuple):
    """Where a settlement went: one category of one device group."""

    device: int
    start_ns: int
    category: Category
    group: int
    device_ns: int
    units: int | None
    energy_mj: int | None


@dataclass(slots=True)
class Settled:
    """The outcome of a tick. `spanless` includes what settlement itself added at the end."""

    roots: Roots
    spanless: list[Spanless]
    by_bucket: dict[Bucket, Amounts]
    settlements: list[SettlementRow] = field(default_factory=list[SettlementRow])
    parts: list[PartRow] = field(default_factory=list[PartRow])


def settle(
    devices: Sequence[DeviceWork],
    roots: Roots,
    spanless: Sequence[Spanless],
    groups: Mapping[int, Sequence[int]],
    *,
    apportioner: Apportioner,
    tie: Tie,
) -> Settled:
    """Settle every device of `devices` over its own interval.

    `groups` maps a group key to its device keys. `tie(rows)` are the stable hashes of the work in
    those rows (roots first, then spanless, then what settlement adds). What nobody claims becomes
    `unattributed`.
    """
    fill = [piece for device in devices for piece in _unexplained(device, spanless)]
    late = [
        Spanless(
            device.start_ns,
            device.start_ns,
            Category.UNATTRIBUTED,
            device.group,
            NOBODY,
            device.late_reason,
            device.device,
        )
        for device in devices
    ]
    rest = [*spanless, *fill, *late]
    work, group_column = _work(roots, rest)
    size = work.start_ns.size
    settled = Settled(roots, rest, {})
    found: dict[Bucket, list[Amounts]] = {}
    for index, device in enumerate(devices):
        if device.end_ns <= device.start_ns:
            continue
        rows = _rows_of(device, roots, rest, groups, size)
        late_row = roots.size + len(spanless) + len(fill) + index
        _settle_device(device, rows, late_row, work, group_column, settled, found, apportioner, tie)
    settled.by_bucket = {bucket: Amounts.joined(parts) for bucket, parts in found.items()}
    return settled


def _unexplained(device: DeviceWork, spanless: Sequence[Spanless]) -> list[Spanless]:
    """What is left where no reason is known; a known one would else have to share its time."""
    known = union(
        Interval(claim.start_ns, claim.end_ns)
        for claim in spanless
        if claim.device == device.device and claim.category is Category.UNATTRIBUTED
    )
    return [
        Spanless(
            piece.start_ns,
            piece.end_ns,
            Category.UNATTRIBUTED,
            device.group,
            NOBODY,
            "no_evidence",
            device.device,
        )
        for piece in subtract(Interval(device.start_ns, device.end_ns), known)
    ]


def _work(roots: Roots, rest: Sequence[Spanless]) -> tuple[Claims, Column]:
    table = np.array(
        [(s.start_ns, s.end_ns, int(s.category), s.group) for s in rest], dtype=np.int64
    ).reshape(-1, 4)
    claims = Claims(
        np.concatenate([roots["start_ns"], table[:, 0]]),
        np.concatenate([roots["end_ns"], table[:, 1]]),
        np.concatenate([roots["category"], table[:, 2].astype(np.uint8)]),
        np.arange(roots.size + len(rest), dtype=np.int64),
        _windows(roots, table),
    )
    return claims, np.concatenate([roots["group"].astype(np.int64), table[:, 3]])


def _windows(roots: Roots, rest: Column) -> Windows | None:
    """The needs of the work; None where none is known."""
    by_need = np.isin(roots["method"], BY_NEED)
    if not by_need.any():
        return None
    token_ns = np.where(roots["first_token_ns"] > 0, roots["first_token_ns"], roots["end_ns"])
    nothing = np.zeros(rest.shape[0], np.int64)
    return Windows(
        np.concatenate([np.where(by_need, roots["begun_ns"], roots["start_ns"]), rest[:, 0]]),
        np.concatenate([np.where(by_need, token_ns, roots["end_ns"]), rest[:, 1]]),
        np.concatenate([np.where(by_need, roots["prefill_own"], 0), nothing]),
        np.concatenate([np.where(by_need, roots["decode_own"], 0), nothing]),
    )


def _rows_of(
    device: DeviceWork,
    roots: Roots,
    rest: Sequence[Spanless],
    groups: Mapping[int, Sequence[int]],
    size: int,
) -> Column:
    """The rows of the work that claim something of `device`."""
    mine = [group for group, members in groups.items() if device.device in members]
    chosen = np.zeros(size, dtype=np.bool_)
    chosen[: roots.size] = np.isin(roots["group"], mine)
    mine_set = set(mine)
    for offset, claim in enumerate(rest):
        of_device = claim.device == device.device
        if of_device or (claim.device is None and claim.group in mine_set):
            chosen[roots.size + offset] = True
    return np.flatnonzero(chosen)


def _settle_device(
    device: DeviceWork,
    rows: Column,
    late_row: int,
    work: Claims,
    group_column: Column,
    settled: Settled,
    found: dict[Bucket, list[Amounts]],
    apportioner: Apportioner,
    tie: Tie,
) -> None:
    rows = rows[np.argsort(work.start_ns[rows], kind="stable")]
    starts_ns, taken, inside = work.start_ns[rows], 0, rows[:0]
    idle = None
    if device.energy is not None and device.idle_mw is not None:
        idle = device.energy.idle_part(device.idle_mw)
    for number, segment in enumerate(device.segments()):
        until = int(np.searchsorted(starts_ns, segment.end_ns))
        inside = np.concatenate([inside, rows[taken:until]])
        inside, taken = inside[work.end_ns[inside] > segment.start_ns], until
        shares = apportion(
            segment.start_ns,
            segment.end_ns,
            work.take(inside),
            meter=segment.meter,
            energy=device.energy,
            idle=idle,
            apportioner=apportioner,
            tie=tie,
        )
        bucket = Bucket(segment.start_ns - segment.start_ns % NS_PER_MINUTE, segment.rate)
        amounts = found.setdefault(bucket, [])
        amounts.append(Amounts.of(inside, shares))
        late_mj = device.late_mj if number == 0 else 0
        if late_mj:
            priced = segment.meter is not None
            amounts.append(Amounts.of_energy(late_row, late_mj, priced=priced))
        _record(device, segment.start_ns, segment.end_ns, segment.rate, shares, late_mj, settled)
        _record_parts(device, segment.start_ns, shares, group_column[inside], late_mj, settled)


def _record(
    device: DeviceWork,
    start_ns: int,
    end_ns: int,
    rate: int,
    shares: Shares,
    late_mj: int,
    settled: Settled,
) -> None:
    totals = shares.totals.values()
    units = None if shares.units is None else sum(total.units or 0 for total in totals)
    energy = None if shares.energy_mj is None else sum(total.energy_mj or 0 for total in totals)
    if late_mj:
        energy = (energy or 0) + late_mj
    how = (device.energy_source, None if shares.energy_mj is None else device.idle_mw)
    settled.settlements.append(
        SettlementRow(device.device, start_ns, end_ns, rate, units, energy, *how)
    )


def _record_parts(
    device: DeviceWork,
    start_ns: int,
    shares: Shares,
    group_column: Column,
    late_mj: int,
    settled: Settled,
) -> None:
    parts: dict[tuple[int, int], PartRow] = {}
    code = shares.claims.category.astype(np.int64) << 32 | group_column
    for value in np.unique(code[shares.some]).tolist():
        rows = code == value
        category, group = Category(value >> 32), value & 0xFFFFFFFF
        parts[category, group] = PartRow(
            device.device,
            start_ns,
            category,
            group,
            int(shares.device_ns[rows].sum()),
            None if shares.units is None else int(shares.units[rows].sum()),
            None if shares.energy_mj is None else int(shares.energy_mj[rows].sum()),
        )
    if late_mj:
        key = (Category.UNATTRIBUTED, device.group)
        part = parts.get(key)
        if part is None:
            units = None if shares.units is None else 0
            part = PartRow(device.device, start_ns, *key, 0, units, 0)
        parts[key] = part._replace(energy_mj=(part.energy_mj or 0) + late_mj)
    settled.parts.extend(parts.values())
