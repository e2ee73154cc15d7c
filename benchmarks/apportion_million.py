"""One million requests on eight devices, 64 at a time each, settled on one core.

By `roofline-windows/1`, with and without energy above the power at rest, beside a plain time-share
sweep of the same work; and how far the time is from linear between 10^5 and 10^6 requests. Times
are of the process's CPU clock. Needs are made up: only their number matters here.
"""

from __future__ import annotations

import statistics
import time
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from apportion.core.category import Category
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.apportionment import TimeShare
from apportion.cost.energy import EnergyCurve
from apportion.cost.methods.names import Method
from apportion.cost.methods.occupancy import own_rate, prefill_starts
from apportion.cost.methods.window_share import WindowShare
from apportion.cost.rounding import mixed_hash
from apportion.cost.settlement.settle import settle
from apportion.cost.settlement.work import ROOT, DeviceWork, RatePeriod, Roots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from apportion.cost.apportionment import Apportioner

DEVICES = 8
CONCURRENCY = 64
ROUNDS = 5
START_NS = 494_445 * NS_PER_HOUR


def run() -> dict[str, object]:
    sizes = {"1e5": 100_000, "1e6": 1_000_000}
    works = {name: work(size) for name, size in sizes.items()}
    seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, roots in works.items():
            ways: dict[str, tuple[Apportioner, bool]] = {
                "windows": (WindowShare(), False),
                "windows, energy": (WindowShare(), True),
                "time": (TimeShare(), False),
            }
            for way, (apportioner, with_energy) in ways.items():
                begun = time.process_time()
                settled(roots, apportioner, with_energy=with_energy)
                seconds.setdefault(f"{way} {name}", []).append(time.process_time() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": medians,
        "ratios": {
            "windows / time, 1e6": medians["windows 1e6"] / medians["time 1e6"],
            "windows, 1e6 / (10 x 1e5)": medians["windows 1e6"] / medians["windows 1e5"] / 10,
            "energy too / without": medians["windows, energy 1e6"] / medians["windows 1e6"],
        },
    }


def work(count: int) -> Roots:
    """Requests that follow each other in 64 lanes a device, of about a second each."""
    random = np.random.default_rng(11)
    per_device = count // DEVICES
    parts: list[Roots] = []
    for device in range(1, DEVICES + 1):
        roots = np.zeros(per_device, ROOT)
        lengths = random.integers(200_000_000, 1_800_000_000, per_device)
        rounds = -(-per_device // CONCURRENCY)
        lanes = np.zeros((CONCURRENCY, rounds), np.int64)
        lanes.flat[:per_device] = lengths
        ends = np.cumsum(lanes, axis=1)
        starts = ends - lanes
        roots["start_ns"] = START_NS + starts.flat[:per_device]
        roots["end_ns"] = START_NS + ends.flat[:per_device]
        roots["first_token_ns"] = roots["start_ns"] + lengths // 10
        roots["number"] = np.arange(1, per_device + 1)
        roots["ring"], roots["group"] = device, device
        roots["category"] = int(Category.DIRECT)
        roots["method"] = int(Method.ROOFLINE_WINDOWS)
        needed_s = random.uniform(0.001, 0.02, per_device)
        compute_ns = (needed_s * NS_PER_SECOND).astype(np.int64)
        roots["begun_ns"] = prefill_starts(roots["start_ns"], roots["first_token_ns"], compute_ns)
        prefill_ns = roots["first_token_ns"] - roots["begun_ns"]
        roots["prefill_own"] = own_rate(needed_s, prefill_ns)
        roots["decode_own"] = own_rate(needed_s, roots["end_ns"] - roots["first_token_ns"])
        parts.append(roots[np.argsort(roots["end_ns"])])  # as a ring has them
    return np.concatenate(parts)


def settled(roots: Roots, apportioner: Apportioner, *, with_energy: bool) -> None:
    """The whole of it, on every device, and what it must add up to."""
    energy = _readings(int(roots["end_ns"].max())) if with_energy else None
    end_ns = int(roots["end_ns"].max())
    units_per_hour = Fraction(2_490_000_000_000)
    devices = [
        DeviceWork(
            device,
            device,
            START_NS,
            end_ns,
            [RatePeriod(1, units_per_hour, None, None)],
            energy,
            None,
            idle_mw=70_000 if with_energy else None,
        )
        for device in range(1, DEVICES + 1)
    ]

    def tie(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        return mixed_hash(rows.astype(np.uint64), rows)

    outcome = settle(
        devices,
        roots,
        [],
        {device: (device,) for device in range(1, DEVICES + 1)},
        apportioner=apportioner,
        tie=tie,
    )
    amounts = outcome.by_bucket.values()
    metered = sum(row.units or 0 for row in outcome.settlements)
    assert metered == sum(int(a.units.sum()) for a in amounts if a.units is not None)
    used_mj = sum(row.energy_mj or 0 for row in outcome.settlements)
    assert used_mj == sum(int(a.energy_mj.sum()) for a in amounts)


def _readings(end_ns: int) -> EnergyCurve:
    """A counter that is read once a second, at a power between 300 and 700 W."""
    times_ns = range(START_NS, end_ns + NS_PER_SECOND, NS_PER_SECOND)
    powers_mw = np.random.default_rng(7).integers(300_000, 700_000, len(times_ns))
    return EnergyCurve(tuple(times_ns), tuple(np.cumsum(powers_mw).tolist()))
