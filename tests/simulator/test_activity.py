"""What an H100 and newer tell of their activity, and the driver's buffers of samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apportion.core.clock import ManualClock
from apportion.simulator import PROFILES, Simulator

Ask = Callable[[Path, str], Any]
AskTwice = Callable[[Path, str, Callable[[], None]], Any]
SECOND_NS = 1_000_000_000
MIB = 1024 * 1024


def test_activity_between_two_samples(tmp_path: Path, ask_twice: AskTwice) -> None:
    """Percent of the time between them, MiB a second, and a code for each metric by itself."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", devices=2, clock=clock) as simulator:
        simulator.set_utilization(0, 0.5)

        def pass_time() -> None:
            clock.advance(SECOND_NS)
            simulator.set_utilization(0, 0.0)
            clock.advance(SECOND_NS)
            simulator.advance()

        answer = ask_twice(
            simulator.state,
            """
            nvml.nvmlInit()
            one = nvml.nvmlDeviceGetHandleByIndex(0)
            support = nvml.nvmlGpmQueryDeviceSupport(one).isSupportedDevice
            first, second = nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
            def metrics(before, after):
                get = nvml.c_nvmlGpmMetricsGet_t(version=1, sample1=before, sample2=after)
                asked = (1, 2, 3, 5, 10, 12, 20, 21, 60, 61, 100, 999)
                get.numMetrics = len(asked)
                for place, metric in enumerate(asked):
                    get.metrics[place].metricId = metric
                nvml.nvmlGpmMetricsGet(get)
                return [[get.metrics[i].nvmlReturn, get.metrics[i].value]
                        for i in range(len(asked))]
            nvml.nvmlGpmSampleGet(one, first)
            pause()
            nvml.nvmlGpmSampleGet(one, second)
            answer = {
                "support": support,
                "metrics": metrics(first, second),
                "twice": sorted({code for code, _ in metrics(second, second)}),
                "empty": code(metrics, first, nvml.nvmlGpmSampleAlloc()),
                "version": code(nvml.nvmlGpmMetricsGet, nvml.c_nvmlGpmMetricsGet_t(version=2)),
                "free": [code(nvml.nvmlGpmSampleFree, sample) for sample in (first, second)],
            }
            """,
            pass_time,
        )
    profile = PROFILES["h100"]
    pcie = profile.pcie_bytes_per_second / 4 / MIB
    nvlink = 18 * profile.nvlink_bytes_per_second / 4 / MIB
    assert [code for code, _ in answer["metrics"]] == [0] * 10 + [3, 2]
    assert [value for _, value in answer["metrics"]] == pytest.approx(
        [25, 22.5, 10, 12.5, 12.5, 5, pcie, pcie, nvlink, nvlink, 0, 0]
    )
    assert answer["support"] == 1
    assert answer["twice"] == [21]
    assert (answer["empty"], answer["version"]) == (2, 25)
    assert answer["free"] == [0, 0]


SAMPLES = """
    nvml.nvmlInit()
    one = nvml.nvmlDeviceGetHandleByIndex(0)
    kind, power = nvml.nvmlDeviceGetSamples(one, 0, 0)
    _, use = nvml.nvmlDeviceGetSamples(one, 1, 0)
    last = power[-1].timeStamp
    answer = {
        "kind": kind,
        "power": [sample.sampleValue.uiVal for sample in power],
        "use": [sample.sampleValue.uiVal for sample in use],
        "steps": sorted({b.timeStamp - a.timeStamp for a, b in zip(power, power[1:])}),
        "last": last,
        "since": len(nvml.nvmlDeviceGetSamples(one, 0, last - 100_000)[1]),
        "none": code(nvml.nvmlDeviceGetSamples, one, 0, last),
        "unknown": code(nvml.nvmlDeviceGetSamples, one, 99, 0),
    }
"""


def test_the_driver_keeps_samples(tmp_path: Path, ask: Ask) -> None:
    """120 of them, 20 ms apart, each once; nothing new is NOT_FOUND, not a repetition."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", clock=clock) as simulator:
        for tick in range(30):
            if tick == 20:
                simulator.set_utilization(0, 1.0)
            clock.advance(SECOND_NS // 10)
            simulator.advance()
        answer = ask(simulator.state, SAMPLES)
    assert answer["kind"] == 1
    assert answer["power"] == [70_000] * 70 + [700_000] * 50  # of the last 2.4 s one was busy
    assert answer["use"][:70] == [0] * 70
    assert answer["use"][-1] == 100
    assert answer["use"] == sorted(answer["use"])
    assert answer["steps"] == [20_000]
    assert answer["last"] == 1_700_000_003_000_000
    assert answer["since"] == 5
    assert (answer["none"], answer["unknown"]) == (6, 2)


def test_a_leap_of_the_clock_makes_no_flood_of_samples(tmp_path: Path, ask: Ask) -> None:
    """Of a controller that stood still only what physics still knows is sampled."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", clock=clock) as simulator:
        clock.advance(3_600 * SECOND_NS)
        simulator.advance()
        answer = ask(simulator.state, SAMPLES)
    assert 0 < len(answer["power"]) <= 50


def test_nvlink_5_counts_bytes_of_each_link(tmp_path: Path, ask: Ask) -> None:
    """Fields 202 and 204 on a B200, and there no total in KiB; the other way round on an H200."""
    program = """
        nvml.nvmlInit()
        one = nvml.nvmlDeviceGetHandleByIndex(0)
        asked = [(202, 0), (204, 17), (138, 0xffffffff), (202, 18)]
        answer = [[field.nvmlReturn, field.value.ullVal if field.nvmlReturn == 0 else None]
                  for field in nvml.nvmlDeviceGetFieldValues(one, asked)]
    """
    clock = ManualClock()
    answers: dict[str, Any] = {}
    for name in ("b200", "h200"):
        with Simulator(
            tmp_path / name, profile=PROFILES[name], devices=2, clock=clock
        ) as simulator:
            simulator.set_utilization(0, 1.0)
            clock.advance(SECOND_NS)
            simulator.advance()
            answers[name] = ask(simulator.state, program)
    assert answers["b200"] == [[0, 4_000_000_000], [0, 4_000_000_000], [3, None], [2, None]]
    assert answers["h200"] == [[3, None], [3, None], [0, 18 * (2_000_000_000 // 1024)], [3, None]]


@pytest.mark.parametrize(("name", "supported"), [("a100", 0), ("h200", 1), ("b200", 1), ("t4", 0)])
def test_which_models_have_gpm(tmp_path: Path, ask: Ask, name: str, supported: int) -> None:
    """From Hopper on; before, the question is answered and the samples are not."""
    with Simulator(tmp_path / "state", profile=PROFILES[name], clock=ManualClock()) as simulator:
        answer = ask(
            simulator.state,
            """
            nvml.nvmlInit()
            one = nvml.nvmlDeviceGetHandleByIndex(0)
            answer = [nvml.nvmlGpmQueryDeviceSupport(one).isSupportedDevice,
                      code(nvml.nvmlGpmSampleGet, one, nvml.nvmlGpmSampleAlloc())]
            """,
        )
    assert answer == [supported, 0 if supported else 3]
