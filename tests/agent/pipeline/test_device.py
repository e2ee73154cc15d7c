"""One device's timeline: how far it may be settled, and what its energy was."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from apportion.agent.pipeline.device import GIVE_UP_NS, Knot, MeteredDevice
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_SECOND, Millijoules, MonotonicNs

SECOND = NS_PER_SECOND
PATIENCE = 5 * SECOND
INFO = DeviceInfo(DeviceId("GPU-0"), "H100", 0, "nvml")


def device() -> MeteredDevice:
    """Metered from 0 on."""
    return MeteredDevice(1, 1, INFO, 0, 0)


def reading(energy_mj: int | None, utilization: float | None = None) -> Reading:
    """A reading; its time is given apart."""
    energy = None if energy_mj is None else Millijoules(energy_mj)
    return Reading(
        INFO.device,
        MonotonicNs(0),
        energy_mj=energy,
        energy_source="energy_counter",
        utilization_ratio=utilization,
    )


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9 * SECOND),
            st.none() | st.integers(0, 10**6),
            st.integers(0, 9 * SECOND),
        )
    )
)
@example([(6 * SECOND, None, 0), (SECOND, 100, 3 * SECOND), (SECOND, None, 0)])
def test_energy_is_the_counters_whatever_the_ticks(
    events: list[tuple[int, int | None, int]],
) -> None:
    """Resets, gaps, ticks and old news at any time: all that the counter showed counts, once.

    An event is a pause and then a tick, or a reading and its age.
    """
    metered = device()
    metered.add(reading(0), 0, "boot")
    now_ns, last_mj, expected_mj, found_mj = 0, 0, 0, 0
    for pause_ns, raw_mj, age_ns in events:
        now_ns += pause_ns
        if raw_mj is None:
            found_mj += settle(metered, now_ns)
        elif metered.add(reading(raw_mj), max(0, now_ns - age_ns), "boot") is not None:
            expected_mj += raw_mj if raw_mj < last_mj else raw_mj - last_mj
            last_mj = raw_mj
    end_ns = max(now_ns, metered.settled_ns, metered.knots[-1].time_ns)
    found_mj += settle(metered, end_ns)
    found_mj += settle(metered, end_ns + 2 * PATIENCE)
    assert found_mj == expected_mj


def settle(metered: MeteredDevice, limit_ns: int) -> int:
    """What one tick accounts for, in millijoules."""
    target_ns = metered.target_ns(limit_ns, patience_ns=PATIENCE)
    found_mj = 0
    if target_ns > metered.settled_ns:
        curve = metered.curve()
        assert curve is not None
        late_mj, _ = metered.late_mj(target_ns)
        found_mj = curve.at(target_ns) - curve.at(metered.settled_ns) + late_mj
    metered.settled(target_ns)
    return found_mj


def test_it_is_settled_to_a_reading_or_past_a_silence() -> None:
    """A window is judged whole; only silence longer than patience is passed without one."""
    metered = device()
    for second in range(4):
        metered.add(reading(second), second * SECOND, "boot")
    assert metered.target_ns(2 * SECOND + 1, patience_ns=PATIENCE) == 2 * SECOND
    assert metered.target_ns(8 * SECOND, patience_ns=PATIENCE) == 3 * SECOND
    assert metered.target_ns(9 * SECOND, patience_ns=PATIENCE) == 9 * SECOND


def test_windows_have_no_gaps_and_silence_no_ratio() -> None:
    """Every instant up to the target is in one window."""
    metered = device()
    for second, ratio in ((0, 0.1), (1, 0.2), (2, None), (9, 0.9)):
        metered.add(reading(0, ratio), second * SECOND, "boot")
    windows = metered.windows(12 * SECOND, patience_ns=PATIENCE, cpu_of=None)
    assert [(w.start_ns, w.end_ns, w.activity_ratio) for w in windows] == [
        (0, SECOND, 0.2),
        (SECOND, 2 * SECOND, None),
        (2 * SECOND, 9 * SECOND, None),
        (9 * SECOND, 12 * SECOND, None),
    ]
    assert [window.reason for window in windows] == ["", "", "telemetry_gap", "telemetry_gap"]


def test_an_old_reading_is_no_news() -> None:
    """Readings go forward in time."""
    metered = device()
    assert metered.add(reading(1), SECOND, "boot") is not None
    assert metered.add(reading(2), SECOND, "boot") is None


def test_the_cpu_of_instrumented_processes_is_its_activity() -> None:
    """On the CPU device a neighbour's load is no evidence for this workload."""
    metered = device()
    for second in (0, 1):
        metered.add(
            Reading(
                INFO.device,
                MonotonicNs(0),
                utilization_ratio=1.0,
                cpu_ns_by_pid={7: second * SECOND // 4, 8: second * 9 * SECOND},
            ),
            second * SECOND,
            "boot",
        )
    (window,) = metered.windows(SECOND, patience_ns=PATIENCE, cpu_of={7})
    assert window.activity_ratio == 0.25
    (all_of_it,) = metered.windows(SECOND, patience_ns=PATIENCE, cpu_of=set())
    assert all_of_it.activity_ratio == 1.0


def test_another_source_of_energy_begins_anew() -> None:
    """A counter that replaces an integral of power has another zero: the step is no energy."""
    metered = device()
    told = [(1_000, "power_integrated"), (1_500, "power_integrated"), (9_000_000, "energy_counter")]
    totals: list[int | None] = []
    for second, (energy_mj, source) in enumerate([*told, (9_000_100, "energy_counter")], 1):
        sample = replace(reading(energy_mj), energy_source=source)
        knot = metered.add(sample, second * SECOND, "boot")
        assert knot is not None
        assert knot.reset_mj == 0
        totals.append(knot.total_mj)
    assert totals == [0, 500, 500, 600]


def test_a_counter_that_did_not_begin_at_zero_charges_nothing() -> None:
    """Another device under the same id, or a counter that is kept elsewhere: no terajoules."""
    metered = device()
    metered.add(reading(9_000_000_000), 0, "boot")
    assert metered.add(reading(8_000_000_000), 30 * SECOND, "boot") == Knot(
        30 * SECOND, 0, 0, None, {}, 8_000_000_000, "boot", INFO.index
    )
    metered.add(reading(60_000), 60 * SECOND, "another boot")
    assert [knot.reset_mj for knot in metered.knots] == [0, 0, 60_000]


def test_knots_survive_the_ledger() -> None:
    """A restart goes on from the same counter."""
    metered = device()
    knot = metered.add(reading(500, 0.5), SECOND, "boot")
    assert knot is not None
    assert Knot.of_json(SECOND, knot.to_json()) == knot
    again = device()
    again.restore([knot])
    later = again.add(reading(700), 2 * SECOND, "boot")
    assert later is not None
    assert later.total_mj == (knot.total_mj or 0) + 200
    rebooted = device()
    rebooted.restore([knot])
    fresh = rebooted.add(reading(700), 2 * SECOND, "another boot")
    assert fresh is not None
    assert (fresh.total_mj, fresh.reset_mj) == (knot.total_mj, 700)


def test_an_awaited_device_stands_still_and_is_given_up() -> None:
    """After a restart its gap is settled with the first reading, or not at all."""
    metered = device()
    metered.awaited_since_ns = 10 * SECOND
    assert metered.target_ns(60 * SECOND, patience_ns=PATIENCE) == 0
    assert not metered.is_gone(10 * SECOND + GIVE_UP_NS)
    assert metered.is_gone(10 * SECOND + GIVE_UP_NS + 1)
    metered.add(reading(1), 61 * SECOND, "boot")
    assert not metered.is_gone(10 * SECOND + GIVE_UP_NS + 1)
