"""A recorded trace, apportioned: what each request cost, and what nobody used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from apportion.core.category import Category
from apportion.core.units import NS_PER_HOUR
from apportion.cost.methods.counts import rebuilt, roofline_counts
from apportion.cost.methods.token_share import token_share
from apportion.cost.methods.trace import IterationCounts, Iterations
from apportion.cost.methods.two_part import roofline_two_part
from apportion.cost.methods.windows import roofline_windows
from apportion.cost.rounding import largest_remainder, stable_hash

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from apportion.cost.methods.roofline import Roofline
    from apportion.cost.methods.shares import TraceShares
    from apportion.cost.methods.trace import Column, Trace
    from apportion.cost.replay.iterations_file import IterationRows
    from apportion.cost.replay.requests_file import RequestRow
    from apportion.cost.rounding import Hashes, Tie


@dataclass(frozen=True, slots=True)
class ReplayedRequest:
    """One request's part. `device_ns` are of all devices together; `units` are 10^-12 of money.

    `recompute_units` of them paid for what a preemption had thrown away; None: nobody knows.
    """

    request: RequestRow
    device_ns: int
    units: int
    energy_mj: int | None
    recompute_units: int | None = None


@dataclass(frozen=True, slots=True)
class ReplayedCategory:
    """What a category got, its requests included."""

    category: Category
    device_ns: int
    units: int
    energy_mj: int | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """The whole trace; requests by start and id. Requests and `spanless` sum to the metered.

    `spanless` is what no request of the trace has: idle time, and busy time of requests that are
    not in it.
    """

    allocation_method: str
    requests: tuple[ReplayedRequest, ...]
    spanless: tuple[ReplayedCategory, ...]
    device_ns: int
    units: int
    energy_mj: int | None

    @property
    def parts(self) -> tuple[ReplayedRequest | ReplayedCategory, ...]:
        """Everything that was divided: sums to the totals."""
        return (*self.requests, *self.spanless)


def shares_of(trace: Trace, rows: IterationRows | None, roofline: Roofline | None) -> TraceShares:
    """By the best method that what is known allows.

    Raises:
        KeyError: an iteration names a request that the trace does not have.
    """
    if rows is None:
        return token_share(trace) if roofline is None else roofline_windows(trace, roofline)
    if rows.batches:
        iterations = Iterations.of(rows.batches, trace)
        if roofline is None:
            return token_share(trace, iterations)
        return roofline_two_part(trace, iterations, roofline)
    counts = IterationCounts.of(rows.counts)
    if roofline is None:
        return token_share(trace, rebuilt(trace, counts))
    return roofline_counts(trace, counts, roofline)


def replay(
    requests: Sequence[RequestRow],
    shares: TraceShares,
    *,
    units_per_hour: Fraction,
    devices: int = 1,
    energy_mj: int | None = None,
) -> Replayed:
    """Meter `devices` over [first start, last finish] and divide it by `shares`.

    `requests` are those of the trace, by start and id. `energy_mj` is what all devices used over
    that time, None where it is not known; idle time gets its part by time.
    """
    first_ns = min(row.start_ns for row in requests)
    last_ns = max(row.finish_ns for row in requests)
    wall_ns = last_ns - first_ns
    idle_ns = wall_ns - _inside(shares, first_ns, last_ns)
    weights = np.concatenate([shares.weights, np.array([shares.unknown])])
    tie = _ties(requests)
    keys = np.arange(weights.size)

    def divided(total: int) -> tuple[list[int], int]:
        """What each request, the unknown, and idle time get of `total`."""
        idle, busy = _in_two(total, idle_ns, wall_ns)
        return largest_remainder(busy, weights, keys, tie).tolist(), idle

    time_ns = wall_ns * devices
    numerator = units_per_hour.numerator * time_ns
    units = numerator // (units_per_hour.denominator * NS_PER_HOUR)
    times, idle_time = divided(time_ns)
    costs, idle_cost = divided(units)
    energies, idle_energy = (None, None) if energy_mj is None else divided(energy_mj)
    spanless = [ReplayedCategory(Category.ALLOCATED_IDLE, idle_time, idle_cost, idle_energy)]
    if shares.unknown:
        spanless.insert(
            0,
            ReplayedCategory(
                Category.DIRECT, times[-1], costs[-1], None if energies is None else energies[-1]
            ),
        )
    return Replayed(
        shares.allocation_method,
        tuple(
            ReplayedRequest(
                row,
                times[index],
                costs[index],
                None if energies is None else energies[index],
                _recomputed(shares, index, costs[index]),
            )
            for index, row in enumerate(requests)
        ),
        tuple(spanless),
        time_ns,
        units,
        energy_mj,
    )


def _recomputed(shares: TraceShares, index: int, units: int) -> int | None:
    """The part of a request's `units` that was computed before."""
    if shares.recompute is None:
        return None
    again, whole = int(shares.recompute[index]), int(shares.weights[index])
    return units * again // whole if whole else 0


def _inside(shares: TraceShares, first_ns: int, last_ns: int) -> int:
    starts = np.clip(shares.busy.start_ns, first_ns, last_ns)
    ends = np.clip(shares.busy.end_ns, first_ns, last_ns)
    return int((ends - starts).sum())


def _in_two(total: int, part: int, whole: int) -> tuple[int, int]:
    """(`part` of `total` out of `whole`, the rest); all of it is the rest where `whole` is 0."""
    first = (2 * total * part + whole) // (2 * whole) if whole else 0
    return first, total - first


def _ties(requests: Sequence[RequestRow]) -> Tie:
    def tie(keys: Column) -> Hashes:
        places: list[int] = keys.tolist()
        names = [requests[key].request_id if key < len(requests) else "" for key in places]
        return np.array([stable_hash(name) for name in names], dtype=np.uint64)

    return tie
