"""Power at rest is learnt from rest alone, and is neither the least nor the first that was seen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apportion.core.units import NS_PER_SECOND
from apportion.cost.idle_power import KEPT, SAMPLE_NS, WANTED, IdlePower, IdleState, Rest

SECOND = NS_PER_SECOND
LOADED, EMPTY = IdleState.LOADED, IdleState.EMPTY


def rests(
    powers_mw: list[int], start_ns: int = 0, state: IdleState = LOADED, seconds: int = 1
) -> list[Rest]:
    """Uninterrupted windows of `seconds` each, at these powers."""
    found: list[Rest] = []
    for power_mw in powers_mw:
        end_ns = start_ns + seconds * SECOND
        found.append(Rest(start_ns, end_ns, power_mw * seconds, state))
        start_ns = end_ns
    return found


def test_the_first_seconds_of_a_rest_do_not_count() -> None:
    """Clocks fall slowly: 300 W after work are no power at rest."""
    known = IdlePower().after(rests([300_000] * 10 + [70_000] * 60))
    assert known.samples == {LOADED: (70_000,) * 6}
    assert known.power_mw == 70_000


def test_until_it_was_seen_long_enough_nothing_is_claimed() -> None:
    """One window is no estimate: None, and all energy goes by weights."""
    known = IdlePower().after(rests([70_000] * 69))
    assert known.power_mw is None
    assert known.by_label == {}
    assert known.after(rests([70_000], 69 * SECOND)).power_mw == 70_000


def test_it_is_no_minimum() -> None:
    """A cold start or a sensor's slip do not stay for ever: half of the samples decide."""
    powers = [50_000] * 20 + [70_000, 71_000, 72_000] * 10 + [5_000] * 10
    known = IdlePower().after(rests(powers, seconds=10))
    assert known.power_mw == 70_000
    later = known.after(rests([80_000] * (KEPT + 1), 10**6 * SECOND, seconds=10))
    assert later.power_mw == 80_000


def test_work_in_between_begins_a_new_rest() -> None:
    """Two short rests are no long one."""
    known = IdlePower()
    for spell in range(20):
        known = known.after(rests([70_000] * 15, spell * 60 * SECOND))
    assert known.samples == {}


def test_a_device_with_a_process_on_it_is_another_one() -> None:
    """A loaded context keeps clocks up; without one its power is at least that of none."""
    known = IdlePower().after(rests([40_000] * 8, state=EMPTY, seconds=10))
    assert (known.of(EMPTY), known.of(LOADED), known.power_mw) == (40_000, None, 40_000)
    known = known.after(rests([70_000] * 8, 80 * SECOND, seconds=10))
    assert known.by_label == {"empty": 40_000, "loaded": 70_000}
    assert known.power_mw == 70_000


@given(st.lists(st.integers(0, 700_000), min_size=1, max_size=200), st.integers(1, 40), st.data())
def test_ticks_change_nothing(powers: list[int], seconds: int, data: st.DataObject) -> None:
    """However the windows are handed over, and through the ledger, the samples are the same."""
    windows = rests(powers, seconds=seconds)
    at_once = IdlePower().after(windows)
    cut = data.draw(st.integers(0, len(windows)))
    assert IdlePower().after(windows[:cut]).after(windows[cut:]) == at_once
    assert IdlePower.of_rows(at_once.rows(3)).samples == at_once.samples
    assert all(len(known) <= KEPT for known in at_once.samples.values())
    assert (at_once.power_mw is None) == (sum(map(len, at_once.samples.values())) < WANTED)
    if 0 < len(at_once.samples.get(LOADED, ())) < KEPT:
        per_sample = -(-SAMPLE_NS // (seconds * SECOND))
        assert len(at_once.samples[LOADED]) == len(windows) // per_sample - 1
