"""The sweep: conservation, precedence, fairness and independence of order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apportion.core.category import SETTLED, Category
from apportion.core.units import NS_PER_HOUR
from apportion.cost.apportionment import Claims, Shares, TimeShare, Windows, apportion
from apportion.cost.energy import EnergyCurve
from apportion.cost.meter import Meter
from apportion.cost.methods.occupancy import OWN_BITS
from apportion.cost.methods.window_share import WindowShare
from apportion.cost.rounding import stable_hash

T0 = 1_790_000 * NS_PER_HOUR
LENGTH = 5_000_000_000
METER = Meter(Fraction(2_490_000_000_001), T0)
ENERGY = EnergyCurve.of([(T0, 0), (T0 + LENGTH // 3, 700), (T0 + LENGTH, 3_500_123)])
IDLE = ENERGY.idle_part(71_000)

ROWS = st.lists(
    st.tuples(
        st.integers(-LENGTH // 5, LENGTH),
        st.integers(0, LENGTH),
        st.sampled_from(SETTLED),
    ),
    max_size=25,
)


def claims_of(rows: list[tuple[int, int, Category]]) -> Claims:
    """Claims (start, length, category) relative to T0, and a last one that covers everything."""
    table = [(T0 + s, T0 + s + d, c, k) for k, (s, d, c) in enumerate(rows)]
    return Claims.of([*table, (T0, T0 + LENGTH, Category.UNATTRIBUTED, len(rows))])


def hashes(keys: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Stable hashes of the claims' keys."""
    return np.array([stable_hash(str(key)) for key in keys.tolist()], np.uint64)


def run(claims: Claims, start: int = T0, end: int = T0 + LENGTH) -> Shares:
    """Apportion with the test's meter and energy."""
    return apportion(
        start,
        end,
        claims,
        meter=METER,
        energy=ENERGY,
        idle=IDLE,
        apportioner=TimeShare(),
        tie=hashes,
    )


@given(ROWS)
def test_everything_adds_up(rows: list[tuple[int, int, Category]]) -> None:
    """Time, money and energy of the parts are the meter's, to the unit, in every category."""
    shares = run(claims_of(rows))
    assert shares.units is not None
    assert shares.energy_mj is not None
    assert int(shares.device_ns.sum()) == LENGTH
    assert int(shares.units.sum()) == METER.at(T0 + LENGTH) - METER.at(T0)
    assert int(shares.energy_mj.sum()) == ENERGY.at(T0 + LENGTH) - ENERGY.at(T0)
    for category, total in shares.totals.items():
        of_it = shares.claims.category == int(category)
        assert int(shares.device_ns[of_it].sum()) == total.device_ns
        assert int(shares.units[of_it].sum()) == total.units
        assert int(shares.energy_mj[of_it].sum()) == total.energy_mj


@given(ROWS, st.randoms())
def test_order_does_not_matter(rows: list[tuple[int, int, Category]], rng: object) -> None:
    """Claims that arrive in another order pay bit-identical amounts."""
    claims = claims_of(rows)
    order = np.random.default_rng(len(rows)).permutation(claims.key.size)
    one, two = run(claims), run(claims.take(order))
    assert one.units is not None
    assert two.units is not None
    assert one.units[order].tolist() == two.units.tolist()
    assert one.device_ns[order].tolist() == two.device_ns.tolist()
    assert one.energy_mj is not None
    assert two.energy_mj is not None
    assert one.energy_mj[order].tolist() == two.energy_mj.tolist()


@given(ROWS, st.integers(1, LENGTH - 1))
def test_splitting_the_interval_changes_nobody_by_more_than_a_unit_a_piece(
    rows: list[tuple[int, int, Category]], cut: int
) -> None:
    """Ticks are an accident: they must not decide who pays."""
    claims = claims_of(rows)
    whole = run(claims)
    left, right = run(claims, T0, T0 + cut), run(claims, T0 + cut, T0 + LENGTH)
    for name in ("device_ns", "units", "energy_mj"):
        one, a, b = getattr(whole, name), getattr(left, name), getattr(right, name)
        assert int(one.sum()) == int(a.sum()) + int(b.sum())
        for category in Category:
            mine = claims.category == int(category)
            assert int(one[mine].sum()) == int((a[mine] + b[mine]).sum())
        assert int(np.abs(one - a - b).max()) <= 3


def test_precedence_is_the_category_order() -> None:
    """A checkpoint under a step belongs to the step; idle only gets what nothing else claims."""
    shares = run(
        claims_of(
            [
                (0, LENGTH // 2, Category.DIRECT),
                (0, LENGTH, Category.CHECKPOINT),
                (0, LENGTH, Category.ALLOCATED_IDLE),
            ]
        )
    )
    assert shares.device_ns.tolist() == [LENGTH // 2, LENGTH - LENGTH // 2, 0, 0]


def test_twins_pay_alike_and_a_loner_pays_all() -> None:
    """Symmetry, and nobody else to pay for what runs alone."""
    twins = run(claims_of([(0, LENGTH, Category.DIRECT), (0, LENGTH, Category.DIRECT)]))
    assert twins.units is not None
    assert abs(int(twins.units[0]) - int(twins.units[1])) <= 1
    alone = run(claims_of([(0, LENGTH, Category.DIRECT)]))
    assert alone.device_ns.tolist() == [LENGTH, 0]


def test_unclaimed_time_is_an_error() -> None:
    """Settlement can never lose an instant without noticing."""
    with pytest.raises(ValueError, match="nobody claims"):
        run(Claims.of([(T0, T0 + 5, Category.DIRECT, 0)]))


def test_without_a_rate_there_is_no_amount() -> None:
    """Unpriced is None, never zero."""
    shares = apportion(
        T0,
        T0 + LENGTH,
        claims_of([]),
        meter=None,
        energy=None,
        apportioner=TimeShare(),
        tie=hashes,
    )
    assert shares.units is None
    assert shares.energy_mj is None
    assert int(shares.device_ns.sum()) == LENGTH


NEEDS = st.lists(
    st.tuples(
        st.integers(-LENGTH // 5, LENGTH),
        st.integers(0, LENGTH),
        st.floats(0, 1),
        st.floats(0, 1),
        st.floats(0, 3),
        st.floats(0, 3),
    ),
    min_size=1,
    max_size=12,
)


def needing(rows: list[tuple[int, int, float, float, float, float]]) -> Claims:
    """Direct claims (start, length, begun, first token, needs), and one that covers everything.

    `begun` and the first token are parts of the length.
    """
    table: list[tuple[int, int, Category, int]] = []
    windows: list[tuple[int, int, int, int]] = []
    for key, (start, length, begun, token, prefill, decode) in enumerate(rows):
        begin_ns = T0 + start
        table.append((begin_ns, begin_ns + length, Category.DIRECT, key))
        token_ns = begin_ns + int(length * max(begun, token))
        begun_ns = begin_ns + int(length * min(begun, token))
        own = (round(prefill * 2**OWN_BITS), round(decode * 2**OWN_BITS))
        windows.append((begun_ns, token_ns, *own))
    table.append((T0, T0 + LENGTH, Category.UNATTRIBUTED, len(rows)))
    windows.append((T0, T0 + LENGTH, 0, 0))
    claims = Claims.of(table)
    columns = np.array(windows, dtype=np.int64).T
    return Claims(
        claims.start_ns, claims.end_ns, claims.category, claims.key, Windows(*columns.copy())
    )


def by_need(claims: Claims, start: int = T0, end: int = T0 + LENGTH) -> Shares:
    """Apportion by needs."""
    return apportion(
        start,
        end,
        claims,
        meter=METER,
        energy=ENERGY,
        idle=IDLE,
        apportioner=WindowShare(),
        tie=hashes,
    )


@given(NEEDS)
def test_needs_change_nothing_about_the_sum(
    rows: list[tuple[int, int, float, float, float, float]],
) -> None:
    """By need as by time: every nanosecond, unit and millijoule has exactly one payer."""
    shares, evenly = by_need(needing(rows)), run(needing(rows))
    assert shares.totals == evenly.totals
    assert shares.units is not None
    assert shares.energy_mj is not None
    assert shares.prefill_ns is None or bool((shares.prefill_ns <= shares.device_ns).all())
    assert int(shares.device_ns.sum()) == LENGTH
    assert int(shares.units.sum()) == METER.at(T0 + LENGTH) - METER.at(T0)
    assert int(shares.energy_mj.sum()) == ENERGY.at(T0 + LENGTH) - ENERGY.at(T0)


@given(NEEDS)
def test_needs_in_another_order_pay_the_same(
    rows: list[tuple[int, int, float, float, float, float]],
) -> None:
    """A permutation is bit-identical, also where floats made the weights."""
    claims = needing(rows)
    order = np.random.default_rng(len(rows)).permutation(claims.key.size)
    one, two = by_need(claims), by_need(claims.take(order))
    assert one.units is not None
    assert two.units is not None
    assert one.units[order].tolist() == two.units.tolist()
    assert one.device_ns[order].tolist() == two.device_ns.tolist()
    assert one.energy_mj is not None
    assert two.energy_mj is not None
    assert one.energy_mj[order].tolist() == two.energy_mj.tolist()


@given(NEEDS, st.integers(1, LENGTH - 1))
def test_needs_settled_in_two_pieces_pay_the_same(
    rows: list[tuple[int, int, float, float, float, float]], cut: int
) -> None:
    """A tick in between leaves totals identical, and each claim within a unit a piece."""
    claims = needing(rows)
    whole = by_need(claims)
    first, second = by_need(claims, T0, T0 + cut), by_need(claims, T0 + cut, T0 + LENGTH)
    for name in ("units", "device_ns", "energy_mj"):
        one = getattr(first, name) + getattr(second, name)
        assert int(one.sum()) == int(getattr(whole, name).sum())
        assert int(np.abs(one - getattr(whole, name)).max()) <= 4, name


def test_energy_at_rest_is_shared_evenly_and_what_exceeds_it_by_need() -> None:
    """Two requests, one of which needs all: 100 W at rest are halved, 500 W above go to it."""
    second = 1_000_000_000
    curve = EnergyCurve.of([(T0, 0), (T0 + second, 600_000)])
    claims = needing([(0, second, 0.0, 0.0, 0.0, 1.0), (0, second, 0.0, 0.0, 0.0, 0.0)])
    shares = {
        idle_mw: apportion(
            T0,
            T0 + second,
            claims,
            meter=METER,
            energy=curve,
            idle=None if idle_mw is None else curve.idle_part(idle_mw),
            apportioner=WindowShare(),
            tie=hashes,
        ).energy_mj
        for idle_mw in (None, 100_000, 10_000_000)
    }
    assert [mj.tolist() for mj in shares.values() if mj is not None] == [
        [600_000, 0, 0],
        [550_000, 50_000, 0],
        [300_000, 300_000, 0],
    ]


def test_who_runs_while_much_is_used_pays_for_it() -> None:
    """Energy is divided instant by instant, not by a claim's part of the whole time."""
    half = LENGTH // 2
    curve = EnergyCurve.of([(T0, 0), (T0 + half, 1_000), (T0 + 2 * half, 10_000)])
    claims = claims_of([(0, half, Category.DIRECT), (half, half, Category.DIRECT)])
    shares = apportion(
        T0, T0 + LENGTH, claims, meter=None, energy=curve, apportioner=TimeShare(), tie=hashes
    )
    assert shares.energy_mj is not None
    assert shares.energy_mj.tolist() == [1_000, 9_000, 0]


def test_a_counter_that_says_anything_overflows_nothing() -> None:
    """A jump that no device can make is divided like any other."""
    absurd = 1 << 61
    curve = EnergyCurve.of([(T0, 0), (T0 + LENGTH, absurd)])
    claims = claims_of([(0, LENGTH, Category.DIRECT), (0, LENGTH, Category.DIRECT)])
    shares = apportion(
        T0,
        T0 + LENGTH,
        claims,
        meter=None,
        energy=curve,
        idle=curve.idle_part(100_000),
        apportioner=WindowShare(),
        tie=hashes,
    )
    assert shares.energy_mj is not None
    assert shares.energy_mj.tolist() == [absurd // 2, absurd // 2, 0]
