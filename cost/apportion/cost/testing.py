"""Doubles that implement the real thing: small, valid ledgers for tests of what reads them."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.core.clock import ManualClock
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost.ledger.batch import UNADJUSTED, ChargeKind, TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.quantity import plus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from apportion.core.clock import Clock

METHOD_KEY = 1
METHOD = "time-share/1"


class Claim(NamedTuple):
    """Who a piece of device time goes to, and with which part of the whole.

    `ring` and `number` 0: time without a span. `phases` divide a span's amount by weight.
    `open`: not posted yet.
    """

    category: Category
    group: int
    entity: int = 0
    ring: int = 0
    number: int = 0
    weight: int = 1
    phases: tuple[tuple[Phase, int], ...] = ((Phase.NONE, 1),)
    open: bool = False
    incomplete: bool = False


class _Line(NamedTuple):
    claim: Claim
    hour_ns: int
    rate: int


class _Amount(NamedTuple):
    start_ns: int
    end_ns: int
    device_ns: int
    energy_mj: int | None
    units: int | None


class LedgerBuilder:
    """Collects rows that hold together: meter, parts, lines. `commit` writes them in one tick.

    Times are node time in nanoseconds. A device's intervals must follow one another.
    """

    def __init__(self) -> None:
        self.batch = TickBatch()
        self.batch.insert("method", [(METHOD_KEY, METHOD)])
        self._rates: dict[int, tuple[Fraction, int]] = {}
        self._lines: dict[_Line, _Amount] = {}
        self._marks: dict[int, tuple[int, int]] = {}
        self._next_charge = 1
        self._next_sequence: dict[int, int] = {}

    # -- names ---------------------------------------------------------------------------------
    def device(
        self, key: int, device: str, name: str = "NVIDIA H100 80GB HBM3", *, simulated: bool = False
    ) -> None:
        """A device, and the group of the same key that is this device alone."""
        self.batch.insert("device", [(key, device, name, "nvml", int(simulated))])
        self.group(key, [key])

    def group(self, key: int, devices: Sequence[int]) -> None:
        """A device group."""
        self.batch.insert("device_group", [(key, ",".join(map(str, devices)))])

    def rate(
        self,
        key: int,
        units_per_hour: Fraction | int,
        *,
        name: str = "NVIDIA H100 80GB HBM3",
        currency: str = "USD",
        basis: str = "contract",
        as_of: str = "2023-11-01",
        valid_from_ns: int | None = None,
    ) -> None:
        """A rate in units of money per device-hour."""
        rate = Fraction(units_per_hour)
        self._rates[key] = (rate, valid_from_ns or 0)
        per_hour = f"{float(rate / UNITS_PER_CURRENCY):g}"
        fraction = (str(rate.numerator), str(rate.denominator))
        facts = (currency, "gpu", basis, "a test", as_of, valid_from_ns, None)
        self.batch.insert("rate", [(key, name, per_hour, *fraction, *facts)])

    def entity(
        self,
        key: int,
        workload: str | None = None,
        *,
        run: str | None = None,
        tenant: str | None = None,
        model: str | None = None,
        owner: str | None = None,
        attempt: str | None = None,
        base_model: str | None = None,
    ) -> None:
        """Somebody who causes cost."""
        who = (workload, run, attempt, tenant, model, owner, base_model)
        self.batch.insert("entity", [(key, *who)])

    def ring(
        self,
        key: int,
        *,
        number: int | None = None,
        ended_ns: int | None = None,
        lost: int = 0,
        said: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """A ring that has been read; its name is `number` in hexadecimal, else its key.

        `said` is its identity; one of a higher key came later.
        """
        name = f"{key if number is None else number:032x}"
        self.batch.insert("ring", [(key, name, "b" * 32, json.dumps(dict(said)), key, None)])
        none = [None] * 8
        self.batch.replace("ring_position", [(key, "{}", lost, 0, ended_ns, None, None, 0, *none)])

    def span(
        self,
        ring: int,
        number: int,
        interval: Interval,
        kind: SpanKind = SpanKind.REQUEST,
        *,
        entity: int | None = None,
        status: SpanStatus = SpanStatus.OK,
        first_token_ns: int | None = None,
        step: int | None = None,
        tokens: tuple[int | None, int | None, int | None] = (None, None, None),
        training_tokens: int | None = None,
        request: str | None = None,
        posted_ns: int | None = None,
    ) -> None:
        """A root span, posted when it ended; `tokens` are input, cached input and output."""
        sequence = self._next_sequence.get(ring, 0) + 1
        self._next_sequence[ring] = sequence
        head = (ring, sequence, number, 0, int(kind), int(status), 0, 0, entity, None)
        times = (interval.start_ns, None, first_token_ns, interval.end_ns)
        counters = (step, *tokens, training_tokens, None, None, None)
        posted_ns = interval.end_ns if posted_ns is None else posted_ns
        row = (*head, *times, *counters, None, None, request, 0, posted_ns, None)
        self.batch.insert("span", [row])

    # -- the book ------------------------------------------------------------------------------
    def settle(
        self,
        device: int,
        interval: Interval,
        claims: Sequence[Claim],
        *,
        rate: int | None = None,
        power_mw: int | None = None,
    ) -> None:
        """Give a device's time to `claims` by weight; split at clock hours."""
        since_ns = self._marks.get(device, (interval.start_ns, 0))[0]
        self._marks[device] = (since_ns, interval.end_ns)
        for piece in interval.split_every(NS_PER_HOUR):
            units = None if rate is None else self._metered(rate, piece)
            energy = None if power_mw is None else _energy_mj(power_mw, piece)
            source = None if power_mw is None else "energy_counter"
            row = (device, piece.start_ns, piece.end_ns, rate, units, energy, source, None)
            self.batch.insert("settlement", [row])
            self._divide(device, piece, claims, rate, units, energy)

    def move(
        self,
        interval: Interval,
        start: Claim,
        to: Claim,
        amounts: tuple[int, int | None, int | None],
        *,
        rate: int | None = None,
    ) -> None:
        """Move (device_ns, energy_mj, units) from one claim to another by reallocation lines."""
        for claim, sign in ((start, -1), (to, 1)):
            device_ns, energy_mj, units = (
                None if amount is None else sign * amount for amount in amounts
            )
            moved = _Amount(interval.start_ns, interval.end_ns, device_ns or 0, energy_mj, units)
            self._charge(claim, moved, ChargeKind.REALLOCATION, rate or 0, claim.phases[0][0])

    def finished(self) -> TickBatch:
        """Everything that was said so far, as one tick."""
        for line, amount in self._lines.items():
            if line.claim.open:
                self.batch.accruals_changed.append(_accrual_row(line, amount))
            else:
                self._post(line, amount)
        self._lines.clear()
        marks = [(key, end, since, None, None) for key, (since, end) in self._marks.items()]
        self.batch.replace("watermark", marks)
        batch, self.batch = self.batch, TickBatch()
        return batch

    def commit(self, ledger: Ledger) -> None:
        """Write it."""
        ledger.commit(self.finished())

    def ledger(
        self, path_or_url: str | Path = "sqlite://", *, clock: Clock | None = None
    ) -> Ledger:
        """A new ledger with everything in it; in memory unless a path is given."""
        ledger = memory_ledger(path_or_url, clock=clock)
        self.commit(ledger)
        return ledger

    def _metered(self, rate: int, piece: Interval) -> int:
        units_per_hour, valid_from_ns = self._rates[rate]
        origin_ns = max(piece.start_ns - piece.start_ns % NS_PER_HOUR, valid_from_ns)
        at = [
            int(units_per_hour * (instant - origin_ns) / NS_PER_HOUR)
            for instant in (piece.start_ns, piece.end_ns)
        ]
        return at[1] - at[0]

    def _divide(
        self,
        device: int,
        piece: Interval,
        claims: Sequence[Claim],
        rate: int | None,
        units: int | None,
        energy: int | None,
    ) -> None:
        weights = [claim.weight for claim in claims]
        times = _split(piece.duration_ns, weights)
        costs = [None] * len(claims) if units is None else _split(units, weights)
        energies = [None] * len(claims) if energy is None else _split(energy, weights)
        parts: dict[tuple[int, int], _Amount] = {}
        hour_ns = piece.start_ns - piece.start_ns % NS_PER_HOUR
        for claim, time, cost, mj in zip(claims, times, costs, energies, strict=True):
            amount = _Amount(piece.start_ns, piece.end_ns, time, mj, cost)
            key = (int(claim.category), claim.group)
            parts[key] = _together(parts.get(key), amount)
            line = _Line(claim._replace(weight=1), hour_ns, rate or 0)
            self._lines[line] = _together(self._lines.get(line), amount)
        rows = [
            (device, piece.start_ns, *key, part.device_ns, part.units, part.energy_mj)
            for key, part in parts.items()
        ]
        self.batch.insert("settlement_part", rows)

    def _post(self, line: _Line, amount: _Amount) -> None:
        weights = [weight for _, weight in line.claim.phases]
        times = _split(amount.device_ns, weights)
        costs = None if amount.units is None else _split(amount.units, weights)
        energies = None if amount.energy_mj is None else _split(amount.energy_mj, weights)
        for index, (phase, _) in enumerate(line.claim.phases):
            part = amount._replace(
                device_ns=times[index],
                units=None if costs is None else costs[index],
                energy_mj=None if energies is None else energies[index],
            )
            self._charge(line.claim, part, ChargeKind.CHARGE, line.rate, phase)

    def _charge(
        self, claim: Claim, amount: _Amount, kind: ChargeKind, rate: int, phase: Phase
    ) -> None:
        who = (claim.group, int(claim.category), int(phase) or None, claim.entity or None)
        span = (claim.ring or None, claim.number or None)
        sums = (amount.device_ns, amount.energy_mj, amount.units)
        how = (rate or None, METHOD_KEY, None, int(claim.incomplete))
        times = (amount.start_ns, amount.end_ns, amount.end_ns)
        row = (self._next_charge, int(kind), *who, *span, *times, *sums, *how, *UNADJUSTED)
        self.batch.insert("charge", [row])
        self._next_charge += 1


def memory_ledger(path_or_url: str | Path = "sqlite://", *, clock: Clock | None = None) -> Ledger:
    """An empty ledger of the node `node-1`; in memory unless a path is given."""
    return Ledger.open(
        path_or_url,
        node="node-1",
        cluster=None,
        currency=None,
        version="0",
        clock=clock or ManualClock(),
    )


def _energy_mj(power_mw: int, piece: Interval) -> int:
    """Of an even power; rounded down at both ends, so that pieces add up."""
    at = [power_mw * instant // NS_PER_SECOND for instant in (piece.start_ns, piece.end_ns)]
    return at[1] - at[0]


def _split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in parts by weight, rounded so that they add up."""
    whole = sum(weights)
    edges = [total * weight // whole for weight in (0, *accumulate(weights))]
    return [end - start for start, end in pairwise(edges)]


def _together(one: _Amount | None, other: _Amount) -> _Amount:
    if one is None:
        return other
    return _Amount(
        min(one.start_ns, other.start_ns),
        max(one.end_ns, other.end_ns),
        one.device_ns + other.device_ns,
        plus(one.energy_mj, other.energy_mj),
        plus(one.units, other.units),
    )


def _accrual_row(line: _Line, amount: _Amount) -> tuple[object, ...]:
    claim = line.claim
    who = (claim.group, int(claim.category), claim.entity, claim.ring, claim.number)
    return (
        *(*who, line.hour_ns, line.rate, ""),
        *(amount.start_ns, amount.end_ns, amount.device_ns, amount.energy_mj, amount.units),
        *(METHOD_KEY, int(claim.incomplete), 0),
    )
