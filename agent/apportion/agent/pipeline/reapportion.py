"""A device's settled past, apportioned again with what is known now: the moves that follow."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.pipeline.ring_state import NO_ROOTS
from apportion.agent.pipeline.root_phases import RootPhases
from apportion.agent.pipeline.surprises import HISTORY_NS, as_applied
from apportion.core.category import Category, Phase, PhaseClock, SpanKind, SpanStatus
from apportion.cost.energy import EnergyCurve
from apportion.cost.methods.window_share import WindowShare
from apportion.cost.settlement.late import Known, reallocate
from apportion.cost.settlement.phases import PhaseSlice
from apportion.cost.settlement.work import (
    LATE_ENERGY_NS,
    NOBODY,
    ROOT,
    DeviceWork,
    Spanless,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from apportion.agent.pipeline.needs import RequestNeeds
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.agent.pipeline.surprises import Surprise
    from apportion.cost.ledger.history import History, RootRow, SettledPiece
    from apportion.cost.rounding import Tie
    from apportion.cost.settlement.late import Move, MoveKey
    from apportion.cost.settlement.work import Roots

MAX_ROOTS: Final = 300_000
"""Where more root spans meet a surprise, what lies before the latest of them stays as it is."""


class Reallocated(NamedTuple):
    """The moves of one device over [start_ns, end_ns), and what their lines need."""

    start_ns: int
    end_ns: int
    moves: dict[MoveKey, Move]
    roots: Roots
    phases: Mapping[int, RootPhases]
    """Of spans that are charged and forgotten, by ring."""


def reapportion(
    surprise: Surprise,
    rings: Sequence[RingState],
    roots: Mapping[int, Roots],
    groups: Mapping[int, Sequence[int]],
    history: History,
    *,
    needs: RequestNeeds,
    ties: Callable[[Roots, Sequence[Spanless]], Tie],
    in_vain: Callable[[RootRow], bool],
) -> Reallocated:
    """Apportion the surprised past twice, as it was known and as it is known now.

    `rings` are bound, `roots` theirs by key; `ties` gives stable hashes. `in_vain`: was this
    step rolled back, so that its cost is `lost`?
    """
    past = _Past(surprise, rings, roots, groups, history, in_vain)
    before, after = past.known(now=False), past.known(now=True)
    for known in (before, after):
        needs.tell(known.roots)
    moves = reallocate(
        past.works(),
        before,
        after,
        groups,
        apportioner=WindowShare(),
        tie=lambda known: ties(known.roots, known.spanless),
    )
    moves = past.with_lost(moves)
    return Reallocated(past.start_ns, past.end_ns, moves, after.roots, past.phases(moves))


class _Past:
    """What the ledger and the rings know about one device's settled interval."""

    def __init__(
        self,
        surprise: Surprise,
        rings: Sequence[RingState],
        roots: Mapping[int, Roots],
        groups: Mapping[int, Sequence[int]],
        history: History,
        in_vain: Callable[[RootRow], bool],
    ) -> None:
        self._device, self.start_ns, self.end_ns = surprise
        mine = {group for group, members in groups.items() if self._device.key in members}
        self._rings = {
            ring.key: ring for ring in rings if any(spell.group in mine for spell in ring.spells())
        }
        self._history = history
        self._in_memory = {key: roots[key] for key in self._rings}
        rows = history.roots(self._rings, self.start_ns, self.end_ns, most=MAX_ROOTS)
        if len(rows) == MAX_ROOTS:
            self.start_ns = max(self.start_ns, min(rows[-1].end_ns, self.end_ns))
        held = {
            (key, number)
            for key, own in self._in_memory.items()
            for number in own["number"].tolist()
        }
        by_ring: dict[int, list[RootRow]] = {key: [] for key in self._rings}
        for row in rows:
            if (row.ring, row.number) not in held:
                by_ring[row.ring].append(row)
        self._charged = {
            key: self._rings[key].by_group(charged_roots(self._rings[key], own))
            for key, own in by_ring.items()
        }
        self._lost = {
            (row.ring, row.number): self._rings[row.ring].run_entity
            for own in by_ring.values()
            for row in own
            if row.kind == SpanKind.STEP and (row.status == SpanStatus.LOST or in_vain(row))
        }

    def known(self, *, now: bool) -> Known:
        """Everything that competes in the interval: as it is known now, or as it was applied."""
        roots: list[Roots] = [NO_ROOTS]
        for key, ring in self._rings.items():
            memory = self._in_memory[key] if now else as_applied(self._in_memory[key])
            if ring.unapplied and not now:
                continue
            own = np.concatenate([self._charged[key], memory])
            roots.append(own)
            gaps = ring.gaps(*self._with_neighbours(ring, own))
            roots.append(ring.own_time(gaps, startup=now or ring.startup_applied))
        return Known(np.concatenate(roots), self._evidence())

    def _with_neighbours(self, ring: RingState, own: Roots) -> tuple[Roots, int | None]:
        """`own` and the first step after the interval; the end of the last step before it."""
        oldest_ns = self.start_ns - HISTORY_NS
        before_ns = self._history.step_end_before(ring.key, self.start_ns, oldest_ns)
        after_ns = self._history.step_start_after(ring.key, self.end_ns)
        if after_ns is not None:
            step = np.zeros(1, dtype=ROOT)
            step["start_ns"], step["end_ns"], step["step"] = after_ns, after_ns + 1, True
            own = np.concatenate([own, step])
        return own, before_ns

    def _evidence(self) -> list[Spanless]:
        device = self._device
        return [
            Spanless(
                verdict.start_ns,
                verdict.end_ns,
                Category(verdict.category),
                device.group,
                int(entity),
                verdict.reason,
                device.key,
            )
            for verdict in self._history.evidence(device.key, self.start_ns, self.end_ns)
            for entity in (verdict.entities.split(",") if verdict.entities else (str(NOBODY),))
        ]

    def works(self) -> list[DeviceWork]:
        """The settled interval again, a work for each rate and power at rest, as they were."""
        device = self._device
        pieces = self._history.settlements(device.key, self.start_ns, self.end_ns)
        curve = _energy(pieces, device.past_curve())
        rates = {period.rate: period for period in device.rates}
        works: list[DeviceWork] = []
        for piece in pieces:
            start_ns, end_ns = max(piece.start_ns, self.start_ns), min(piece.end_ns, self.end_ns)
            period = rates.get(piece.rate or 0)
            held = [] if period is None else [period._replace(to_ns=None)]
            if works:
                last = works[-1]
                if (last.end_ns, last.rates, last.idle_mw) == (start_ns, held, piece.idle_mw):
                    start_ns = works.pop().start_ns
            works.append(
                DeviceWork(
                    device.key,
                    device.group,
                    start_ns,
                    end_ns,
                    held,
                    curve,
                    device.energy_source,
                    idle_mw=piece.idle_mw,
                )
            )
        return works

    def with_lost(self, moves: Mapping[MoveKey, Move]) -> dict[MoveKey, Move]:
        """The direct cost of steps that were lost has gone to `lost`: what moves does too."""
        result: dict[MoveKey, Move] = {}
        for key, move in moves.items():
            payer = key.payer
            entity = self._lost.get((payer.ring, payer.number))
            if entity is not None and payer.category is Category.DIRECT:
                payer = payer._replace(category=Category.LOST, entity=entity)
            result[key._replace(payer=payer)] = move
        return result

    def phases(self, moves: Mapping[MoveKey, Move]) -> dict[int, RootPhases]:
        """The phases of the charged spans that `moves` are about."""
        rings = {
            key.payer.ring for key in moves if key.payer.ring and self._charged[key.payer.ring].size
        }
        found = {ring: RootPhases() for ring in rings}
        if not rings:
            return found
        # All phases of their lives: they are divided as their charges were.
        spans = np.concatenate([self._charged[ring] for ring in rings])
        start_ns, end_ns = int(spans["start_ns"].min()), int(spans["end_ns"].max())
        for row in self._history.inner(rings, start_ns, end_ns):
            piece = PhaseSlice(
                Phase(row.phase), row.start_ns, row.end_ns, row.number, PhaseClock(row.clock)
            )
            found[row.ring].add(row.number, row.parent, piece)
        return found


def charged_roots(ring: RingState, rows: Sequence[RootRow]) -> Roots:
    """Roots of the ledger, charged to their end."""
    roots = np.zeros(len(rows), dtype=ROOT)
    for root, row in zip(roots, rows, strict=True):
        kind = SpanKind(row.kind)
        root["start_ns"], root["end_ns"] = claim_of(ring, row), row.end_ns
        root["first_token_ns"], root["number"] = row.first_token_ns or 0, row.number
        root["ring"], root["entity"] = row.ring, row.entity or NOBODY
        root["input_tokens"] = row.input_tokens or 0
        root["cached_input_tokens"] = row.cached_input_tokens or 0
        root["output_tokens"] = row.output_tokens or 0
        root["engine"] = 0 if row.engine is None else row.engine + 1
        root["category"], root["step"] = int(kind.category), kind is SpanKind.STEP
    roots["applied_start_ns"], roots["applied_end_ns"] = roots["start_ns"], roots["end_ns"]
    return roots


def claim_of(ring: RingState, row: RootRow) -> int:
    """From when a root of the ledger competes: the rule of `spans.claim_starts`."""
    if row.kind != SpanKind.REQUEST:
        return row.start_ns
    if row.scheduled_ns:
        return min(row.scheduled_ns, row.end_ns)
    admits = ring.admits_from is not None and row.sequence >= ring.admits_from
    return row.end_ns if admits and not row.first_token_ns else row.start_ns


def _energy(pieces: Sequence[SettledPiece], known: EnergyCurve) -> EnergyCurve | None:
    """The energy of settled time; what came too late for its own time is left out.

    Within a piece it is as the readings that are still `known` say, as it was when the piece was
    settled: else a move could take more from somebody than was posted. Where they are forgotten it
    grows evenly.
    """
    total_mj, knots, metered = 0, list[tuple[int, int]](), False
    for piece in pieces:
        if not knots or knots[-1][0] < piece.start_ns:
            knots.append((piece.start_ns, total_mj))
        metered |= piece.energy_mj is not None
        knots += [(at_ns, total_mj + used_mj) for at_ns, used_mj in _within(piece, known)]
        if piece.end_ns - piece.start_ns > LATE_ENERGY_NS:
            total_mj += piece.energy_mj or 0
        knots.append((piece.end_ns, total_mj))
    return EnergyCurve.of(knots) if metered else None


def _within(piece: SettledPiece, known: EnergyCurve) -> list[tuple[int, int]]:
    """The readings inside of a piece, as what it had used by then; none where they do not fit."""
    times_ns = known.times_ns
    if not times_ns or times_ns[0] > piece.start_ns or times_ns[-1] < piece.end_ns:
        return []
    start_mj = known.at(piece.start_ns)
    if known.at(piece.end_ns) - start_mj != piece.energy_mj:
        return []
    first = bisect_right(times_ns, piece.start_ns)
    last = bisect_left(times_ns, piece.end_ns)
    pairs = zip(times_ns[first:last], known.energies_mj[first:last], strict=True)
    return [(time_ns, energy_mj - start_mj) for time_ns, energy_mj in pairs]
