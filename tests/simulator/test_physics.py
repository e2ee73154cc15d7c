from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.simulator.physics import (
    ENERGY_TICK_NS,
    PICOJOULES_PER_MILLIJOULE,
    POWER_WINDOW_NS,
    DevicePhysics,
    parts_per_million,
    power_mw,
)
from apportion.simulator.profiles import PROFILES, Profile

profiles = st.sampled_from(sorted(PROFILES.values(), key=lambda profile: profile.name))
# A course: (how long, how busy), from half of nothing to hours.
courses = st.lists(
    st.tuples(st.integers(0, 10**13), st.integers(0, 1_000_000)), min_size=1, max_size=12
)
origins = st.integers(0, 10**18)


def follow(profile: Profile, origin_ns: int, course: list[tuple[int, int]]) -> DevicePhysics:
    physics = DevicePhysics.start(profile, origin_ns)
    now_ns = origin_ns
    for duration_ns, utilization_ppm in course:
        physics = physics.with_utilization(utilization_ppm, now_ns)
        now_ns += duration_ns
    return physics


@given(profiles, origins, courses)
def test_energy_is_the_exact_integral_of_power(
    profile: Profile, origin_ns: int, course: list[tuple[int, int]]
) -> None:
    """The sum over the course of power times time, to the picojoule."""
    expected_pj = sum(power_mw(profile, ppm) * duration_ns for duration_ns, ppm in course)
    end_ns = origin_ns + sum(duration_ns for duration_ns, _ in course)
    assert follow(profile, origin_ns, course).at(end_ns).energy_pj == expected_pj


@given(profiles, origins, courses, st.data())
def test_asking_in_between_changes_nothing(
    profile: Profile, origin_ns: int, course: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Splitting each stretch at any point leaves energy and busy time as they were."""
    split: list[tuple[int, int]] = []
    for duration_ns, ppm in course:
        first_ns = data.draw(st.integers(0, duration_ns))
        split += [(first_ns, ppm), (duration_ns - first_ns, ppm)]
    end_ns = origin_ns + sum(duration_ns for duration_ns, _ in course)
    whole = follow(profile, origin_ns, course).at(end_ns)
    parts = follow(profile, origin_ns, split).at(end_ns)
    assert (parts.energy_pj, parts.busy_ppm_ns) == (whole.energy_pj, whole.busy_ppm_ns)
    assert parts.temperature_c == pytest.approx(whole.temperature_c)


@given(profiles, origins, courses, st.lists(st.integers(0, 10**10), min_size=1, max_size=20))
def test_published_energy_never_falls_and_moves_on_ticks_only(
    profile: Profile, origin_ns: int, course: list[tuple[int, int]], pauses: list[int]
) -> None:
    """The counter that readers see is monotonic and equals the integral at the last tick."""
    physics = follow(profile, origin_ns, course)
    now_ns = physics.checkpoints[-1].at_ns + ENERGY_TICK_NS
    before_mj = physics.published_energy_mj(now_ns)
    for pause_ns in pauses:
        now_ns += pause_ns
        published_mj = physics.published_energy_mj(now_ns)
        tick_ns = origin_ns + (now_ns - origin_ns) // ENERGY_TICK_NS * ENERGY_TICK_NS
        assert published_mj >= before_mj
        assert published_mj == physics.at(tick_ns).energy_pj // PICOJOULES_PER_MILLIJOULE
        before_mj = published_mj


@given(profiles, origins, courses)
def test_averages_stay_between_idle_and_limit(
    profile: Profile, origin_ns: int, course: list[tuple[int, int]]
) -> None:
    """Whatever came before, power is within the board's limits and utilisation within 0 and 1."""
    physics = follow(profile, origin_ns, course)
    now_ns = origin_ns + sum(duration_ns for duration_ns, _ in course)
    average_mw = physics.average_power_mw(now_ns)
    assert profile.power_idle_mw <= average_mw <= profile.power_limit_mw
    assert 0 <= physics.average_utilization_ppm(now_ns) <= 1_000_000


@given(profiles, origins, courses)
def test_the_die_is_never_colder_than_idle_nor_hotter_than_full_power(
    profile: Profile, origin_ns: int, course: list[tuple[int, int]]
) -> None:
    """Heat lags behind power and never overshoots it."""
    now_ns = origin_ns + sum(duration_ns for duration_ns, _ in course)
    temperature_c = follow(profile, origin_ns, course).at(now_ns).temperature_c
    idle_share = profile.power_idle_mw / profile.power_limit_mw
    coldest_c = profile.inlet_c + profile.heat_kelvin * idle_share
    assert coldest_c - 1e-6 <= temperature_c <= profile.inlet_c + profile.heat_kelvin + 1e-6


@given(profiles, courses)
def test_the_past_that_is_kept_stays_short(profile: Profile, course: list[tuple[int, int]]) -> None:
    """Only checkpoints that the last second needs are kept, so a long run does not grow."""
    physics = follow(profile, 0, course)
    since_ns = physics.checkpoints[-1].at_ns - POWER_WINDOW_NS
    assert sum(checkpoint.at_ns <= since_ns for checkpoint in physics.checkpoints) <= 1


def test_average_power_is_that_of_the_last_second() -> None:
    """Half a second busy after half a second idle is the mean of the two."""
    profile = PROFILES["h100"]
    physics = DevicePhysics.start(profile, 0).with_utilization(1_000_000, 10_500_000_000)
    assert physics.average_power_mw(11_000_000_000) == (70_000 + 700_000) // 2


def test_a_short_burst_shows_in_the_utilisation_window() -> None:
    """A burst that ended before anybody looked is still in the last sixth of a second."""
    physics = DevicePhysics.start(PROFILES["h100"], 0)
    burst = physics.with_utilization(1_000_000, 10**9).with_utilization(0, 10**9 + 50_000_000)
    assert burst.average_utilization_ppm(10**9 + 100_000_000) == pytest.approx(300_000, rel=1e-3)
    assert burst.average_utilization_ppm(2 * 10**9) == 0


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    """A percentage given by mistake does not become a hundredfold power."""
    with pytest.raises(ValueError, match="give a number from 0 to 1"):
        parts_per_million(ratio)


def test_a_clock_that_goes_back_is_refused() -> None:
    """The energy counter could fall otherwise."""
    physics = DevicePhysics.start(PROFILES["t4"], 1_000).with_utilization(1, 2_000)
    with pytest.raises(ValueError, match="the clock must be monotonic"):
        physics.with_utilization(2, 1_999)


def test_asking_for_the_forgotten_past_is_refused() -> None:
    """A wrong number is never made up for a time that is no longer known."""
    physics = DevicePhysics.start(PROFILES["t4"], 1_000)
    with pytest.raises(ValueError, match="the oldest checkpoint is at 1000 ns"):
        physics.at(999)
