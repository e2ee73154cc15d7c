"""A GPU's energy from looks at its exporter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.dcgm_energy import NO_ENERGY, DcgmEnergy, Energy
from apportion.core.units import MonotonicNs

SECOND = 10**9


def made() -> DcgmEnergy:
    return DcgmEnergy(longest_gap_ns=90 * SECOND)


def at(second: float) -> MonotonicNs:
    return MonotonicNs(int(second * SECOND))


def test_values_of_the_last_interval_are_nothing_new() -> None:
    """The exporter samples every 30 s; looks in between show the same."""
    energy = made()
    assert energy.look(1_000, 50, at(0)) == (Energy(1_000, "energy_counter", 0), at(0))
    assert energy.look(1_000, 50, at(10)) is None
    assert energy.look(1_000, 50, at(20)) is None


def test_new_values_were_taken_between_an_unchanged_look_and_this_one() -> None:
    """The middle is right to half of what lies between two looks."""
    energy = made()
    energy.look(1_000, 50, at(0))
    energy.look(1_000, 50, at(10))
    assert energy.look(2_500, 50, at(20)) == (Energy(2_500, "energy_counter", 1_500), at(15))


def test_an_exporter_that_is_faster_than_the_looks() -> None:
    """Its values are as good as new."""
    energy = made()
    energy.look(1_000, 50, at(0))
    assert energy.look(2_000, 50, at(10)) == (Energy(2_000, "energy_counter", 1_000), at(10))


def test_a_counter_that_fell() -> None:
    """The driver was loaded anew: everything that it shows is new."""
    energy = made()
    energy.look(9_000, None, at(0))
    assert energy.look(400, None, at(30)) == (Energy(400, "energy_counter", 400), at(30))


def test_without_a_counter_power_is_integrated() -> None:
    """As on a vGPU; labelled so."""
    energy = made()
    assert energy.look(None, 100_000, at(0)) == (Energy(0, "power_integrated", 0), at(0))
    assert energy.look(None, 100_000, at(30)) == (
        Energy(3_000_000, "power_integrated", 3_000_000),
        at(30),
    )


def test_a_gap_is_not_made_up() -> None:
    """Beyond three intervals nobody knows what the power was."""
    energy = made()
    energy.look(None, 100_000, at(0))
    energy.look(None, 100_000, at(30))
    assert energy.look(None, 100_000, at(130)) == (Energy(0, "power_integrated", 0), at(130))


def test_a_counter_that_is_missing_once_is_not_replaced() -> None:
    """The two have different zeros: energy is absent until the counter is back."""
    energy = made()
    energy.look(5_000, 100, at(0))
    assert energy.look(None, 100, at(30)) == (NO_ENERGY, at(30))
    assert energy.look(6_000, 100, at(60)) == (Energy(6_000, "energy_counter", 1_000), at(60))


def test_neither_counter_nor_power() -> None:
    """Nothing is told, and that is new each time."""
    energy = made()
    assert energy.look(None, None, at(0)) == (NO_ENERGY, at(0))
    assert energy.look(None, None, at(1)) == (NO_ENERGY, at(1))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), min_size=1, max_size=40))
def test_times_go_forward_and_growth_adds_up(looks: list[tuple[int, int]]) -> None:
    """Whatever the exporter's rhythm: readings in order of time, and no energy twice or lost."""
    energy, counter, second, last = made(), 7_000, 0, -1
    grown = 0
    for step, wait in looks:
        counter += step
        second += wait
        told = energy.look(counter, None, at(second))
        if told is not None:
            (total, _, growth), taken_ns = told
            grown += growth
            assert total == counter
            assert last < taken_ns <= at(second)
            last = taken_ns
    assert grown == counter - 7_000 - looks[0][0]
