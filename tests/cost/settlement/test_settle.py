"""A tick's division of device time: a change of price inside it, and what order may not change."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apportion.core.category import Category
from apportion.core.units import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from apportion.cost.energy import EnergyCurve
from apportion.cost.meter import Meter
from apportion.cost.methods.names import Method
from apportion.cost.methods.occupancy import OWN_BITS
from apportion.cost.methods.window_share import WindowShare
from apportion.cost.rounding import mixed_hash
from apportion.cost.settlement.settle import Settled, settle
from apportion.cost.settlement.work import ROOT, DeviceWork, RatePeriod, Roots

T0 = 494_445 * NS_PER_HOUR + 7 * NS_PER_MINUTE
LENGTH = 150 * NS_PER_SECOND
ENERGY = EnergyCurve.of([(T0, 0), (T0 + LENGTH // 3, 9_000_001), (T0 + LENGTH, 40_000_000)])
OLD, NEW = Fraction(2_490_000_000_001), Fraction(98_320_000_000_000, 7)

SPANS = st.lists(
    st.tuples(
        st.integers(-LENGTH // 4, LENGTH),
        st.integers(1, LENGTH),
        st.floats(0, 2),
        st.sampled_from([1, 2, 3]),
    ),
    min_size=1,
    max_size=8,
)


def roots_of(spans: list[tuple[int, int, float, int]]) -> Roots:
    """Requests (start, length, need, group); groups 1 and 2 are a device each, 3 is both."""
    roots = np.zeros(len(spans), ROOT)
    for number, (root, (start, length, need, group)) in enumerate(
        zip(roots, spans, strict=True), 1
    ):
        root["start_ns"], root["end_ns"] = T0 + start, T0 + start + length
        root["begun_ns"] = root["start_ns"]
        root["first_token_ns"] = T0 + start + length // 3
        root["prefill_own"] = root["decode_own"] = round(need * 2**OWN_BITS)
        root["number"], root["ring"], root["group"] = number, 1, group
        root["category"], root["method"] = int(Category.DIRECT), int(Method.ROOFLINE_WINDOWS)
    return roots


def settled(roots: Roots, rates: list[RatePeriod], start_ns: int, end_ns: int) -> Settled:
    """Two devices over one interval."""
    devices = [
        DeviceWork(
            device, device, start_ns, end_ns, rates, ENERGY, "energy_counter", idle_mw=60_000
        )
        for device in (1, 2)
    ]

    def tie(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        numbers = np.concatenate([roots["number"], np.zeros(64, np.int64)])[rows]
        return mixed_hash(numbers.astype(np.uint64), numbers)

    groups = {1: (1,), 2: (2,), 3: (1, 2)}
    return settle(devices, roots, [], groups, apportioner=WindowShare(), tie=tie)


def by_span(outcome: Settled) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(units, mJ, ns) by span number (0: nobody) and rate."""
    numbers = np.concatenate([outcome.roots["number"], np.zeros(len(outcome.spanless), np.int64)])
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for bucket, amounts in outcome.by_bucket.items():
        assert amounts.units is not None
        columns = (amounts.units, amounts.energy_mj, amounts.device_ns)
        values = zip(*(column.tolist() for column in columns), strict=True)
        for number, new in zip(numbers[amounts.rows].tolist(), values, strict=True):
            old = found.get((number, bucket.rate), (0, 0, 0))
            found[number, bucket.rate] = tuple(map(sum, zip(old, new, strict=True)))  # type: ignore[assignment]
    return found


@given(SPANS, st.integers(1, LENGTH - 1))
def test_a_price_change_inside_an_interval_splits_it_exactly(
    spans: list[tuple[int, int, float, int]], cut: int
) -> None:
    """Each side costs what its own meter says, and is divided as if it had been alone."""
    roots, at_ns = roots_of(spans), T0 + cut
    rates = [RatePeriod(1, OLD, None, at_ns), RatePeriod(2, NEW, at_ns, None)]
    outcome = settled(roots, rates, T0, T0 + LENGTH)
    whole = by_span(outcome)
    for rate, per_hour, start_ns, end_ns in (
        (1, OLD, T0, at_ns),
        (2, NEW, at_ns, T0 + LENGTH),
    ):
        meter = Meter.within_hour(per_hour, start_ns, at_ns if rate == 2 else None)
        due = 2 * (meter.at(end_ns) - meter.at(start_ns))
        assert sum(row.units or 0 for row in outcome.settlements if row.rate == rate) == due
        assert sum(units for (_, key), (units, _, _) in whole.items() if key == rate) == due
        side = by_span(settled(roots, rates, start_ns, end_ns))
        assert side == {key: amounts for key, amounts in whole.items() if key[1] == rate}


@given(SPANS, st.randoms(use_true_random=False))
def test_the_order_of_records_changes_nothing(
    spans: list[tuple[int, int, float, int]], random: object
) -> None:
    """Rings may be read in any order: money and energy of each span are bit-identical."""
    roots = roots_of(spans)
    rates = [RatePeriod(1, OLD, None, None)]
    order = np.random.default_rng(len(spans)).permutation(roots.size)
    one = settled(roots, rates, T0, T0 + LENGTH)
    assert by_span(settled(roots[order], rates, T0, T0 + LENGTH)) == by_span(one)
    used_mj = sum(row.energy_mj or 0 for row in one.settlements)
    assert used_mj == 2 * ENERGY.energies_mj[-1]
    assert used_mj == sum(int(amounts.energy_mj.sum()) for amounts in one.by_bucket.values())
