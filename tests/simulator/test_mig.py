"""MIG: instances as handles, what they answer and what their device no longer does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apportion.core.clock import ManualClock
from apportion.simulator import PROFILES, ProcessLoad, Simulator

Ask = Callable[[Path, str], Any]
AskTwice = Callable[[Path, str, Callable[[], None]], Any]
SECOND_NS = 1_000_000_000
MIB = 1024 * 1024

INSTANCES = """
    nvml.nvmlInit()
    one = nvml.nvmlDeviceGetHandleByIndex(0)
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(one)):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(one, index))
        except nvml.NVMLError as error:
            assert error.value == 6
"""


def test_instances_have_handles_names_and_memory(tmp_path: Path, ask: Ask) -> None:
    """As NVML shows them: UUID, profile in the name, ids, slices, memory, the way back."""
    with Simulator(tmp_path / "state", devices=2, clock=ManualClock()) as simulator:
        uuids = simulator.set_mig(0, ["3g.40gb", "2g.20gb"])
        simulator.set_processes(0, [ProcessLoad(11, 5_000, instance=1)])
        answer = ask(
            simulator.state,
            f"""{INSTANCES}
    answer = {{
        "mode": [nvml.nvmlDeviceGetMigMode(one),
                 nvml.nvmlDeviceGetMigMode(nvml.nvmlDeviceGetHandleByIndex(1))],
        "uuids": [nvml.nvmlDeviceGetUUID(each) for each in found],
        "names": [nvml.nvmlDeviceGetName(each) for each in found],
        "ids": [[nvml.nvmlDeviceGetGpuInstanceId(each), nvml.nvmlDeviceGetComputeInstanceId(each)]
                for each in found],
        "slices": [nvml.nvmlDeviceGetAttributes_v2(each).computeInstanceSliceCount
                   for each in found],
        "memory": [[nvml.nvmlDeviceGetMemoryInfo(each, nvml.nvmlMemory_v2).total,
                    nvml.nvmlDeviceGetMemoryInfo(each, nvml.nvmlMemory_v2).used]
                   for each in found],
        "parents": [nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(each))
                    for each in found],
        "is": [nvml.nvmlDeviceIsMigDeviceHandle(each).value for each in (one, found[0])],
        "processes": [[p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(each)]
                      for each in (one, *found)],
        "whose": [p.gpuInstanceId for p in nvml.nvmlDeviceGetComputeRunningProcesses(one)],
    }}
            """,
        )
    assert answer == {
        "mode": [[1, 1], [0, 0]],
        "uuids": list(uuids),
        "names": ["NVIDIA H100 80GB HBM3 MIG 3g.40gb", "NVIDIA H100 80GB HBM3 MIG 2g.20gb"],
        "ids": [[1, 0], [2, 0]],
        "slices": [3, 2],
        "memory": [[81_559 * MIB // 8 * 4, 0], [81_559 * MIB // 8 * 2, 5_000]],
        "parents": [0, 0],
        "is": [0, 1],
        "processes": [[11], [], [11]],
        "whose": [2],
    }
    assert len(set(uuids)) == 2


def test_what_a_device_with_mig_cannot_tell(tmp_path: Path, ask: Ask) -> None:
    """Use, shares and links are not known of it; energy and power are those of all instances."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", devices=2, clock=clock) as simulator:
        simulator.set_mig(0, ["3g.40gb", "4g.40gb"])
        simulator.set_utilization(0, 1.0, instance=0)
        before_mj = simulator.energy_mj(0)
        clock.advance(10 * SECOND_NS)
        simulator.advance()
        answer = ask(
            simulator.state,
            f"""{INSTANCES}
    answer = [
        code(nvml.nvmlDeviceGetUtilizationRates, one),
        code(nvml.nvmlDeviceGetProcessUtilization, one, 0),
        code(nvml.nvmlDeviceGetSamples, one, 1, 0),
        code(nvml.nvmlDeviceGetSamples, one, 0, 0),
        [field.nvmlReturn for field in nvml.nvmlDeviceGetFieldValues(one, [138, 142, 83])],
        code(nvml.nvmlDeviceGetTotalEnergyConsumption, found[0]),
        nvml.nvmlDeviceGetTotalEnergyConsumption(one),
    ]
            """,
        )
    profile = PROFILES["h100"]
    assert answer[:6] == [3, 3, 3, 0, [3, 3, 0], 2]
    # 3 of 7 slices are busy: the device is so by 3/7, rounded down to a millionth
    power_mw = profile.power_idle_mw + (profile.power_limit_mw - profile.power_idle_mw) * 3 // 7
    assert answer[6] - before_mj == pytest.approx(10 * power_mw, rel=1e-5)


def test_activity_of_an_instance_is_its_own(tmp_path: Path, ask_twice: AskTwice) -> None:
    """GPM by its handle and by its id; links belong to the whole device."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", devices=2, clock=clock) as simulator:
        simulator.set_mig(0, ["3g.40gb", "2g.20gb"])
        simulator.set_utilization(0, 0.8, instance=1)

        def pass_time() -> None:
            clock.advance(2 * SECOND_NS)
            simulator.advance()

        answer = ask_twice(
            simulator.state,
            f"""{INSTANCES}
    def samples():
        made = [nvml.nvmlGpmSampleAlloc() for _ in range(4)]
        for handle, sample in zip(found, made):
            nvml.nvmlGpmSampleGet(handle, sample)
        for number, sample in zip((1, 2), made[2:]):
            nvml.nvmlGpmMigSampleGet(one, number, sample)
        return made
    before = samples()
    pause()
    answer = []
    for first, second in zip(before, samples()):
        get = nvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=2, sample1=first, sample2=second)
        for place, metric in enumerate((1, 20)):
            get.metrics[place].metricId = metric
        nvml.nvmlGpmMetricsGet(get)
        answer.append([[get.metrics[i].nvmlReturn, round(get.metrics[i].value, 6)]
                       for i in range(2)])
    answer.append(code(nvml.nvmlGpmMigSampleGet, one, 7, nvml.nvmlGpmSampleAlloc()))
            """,
            pass_time,
        )
    assert answer == [*([[0, busy], [3, 0.0]] for busy in (0.0, 80.0, 0.0, 80.0)), 6]


def test_a_changed_layout_keeps_what_stays(tmp_path: Path, ask: Ask) -> None:
    """An instance at the same place with the same profile goes on; ids that are free come again."""
    with Simulator(tmp_path / "state", clock=ManualClock()) as simulator:
        first = simulator.set_mig(0, ["3g.40gb", "2g.20gb", "1g.10gb"])
        simulator.set_processes(
            0,
            [ProcessLoad(11, instance=0), ProcessLoad(12, instance=1), ProcessLoad(13, instance=2)],
        )
        second = simulator.set_mig(0, ["3g.40gb", "1g.10gb", "1g.10gb"])
        assert second[0] == first[0]
        assert second[2] == first[2]
        assert second[1] not in first
        answer = ask(
            simulator.state,
            f"""{INSTANCES}
    answer = [[nvml.nvmlDeviceGetGpuInstanceId(each) for each in found],
              [p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(one)]]
            """,
        )
        assert answer == [[1, 2, 3], [11, 13]]
        assert simulator.set_mig(0, []) == ()
        assert ask(simulator.state, f"{INSTANCES}\n    answer = len(found)") == 0
        simulator.set_mig(0, None)
        assert ask(
            simulator.state, f"{INSTANCES}\n    answer = nvml.nvmlDeviceGetMigMode(one)"
        ) == [
            0,
            0,
        ]


@pytest.mark.parametrize(
    ("profile", "names", "words"),
    [
        ("h100", ["4g.40gb", "4g.40gb"], "8 compute and 8 memory slices"),
        ("h100", ["3g.40gb", "3g.40gb", "1g.10gb"], "7 compute and 9 memory slices"),
        ("h100", ["3g.71gb"], "no MIG profile '3g.71gb'; it has 1g.10gb"),
        ("l40s", ["1g.10gb"], "NVIDIA L40S has no MIG"),
    ],
)
def test_layouts_that_cannot_be(tmp_path: Path, profile: str, names: list[str], words: str) -> None:
    """They are refused, and the device stays whole."""
    with Simulator(tmp_path / "state", profile=PROFILES[profile], clock=ManualClock()) as simulator:
        with pytest.raises(ValueError, match=words):
            simulator.set_mig(0, names)
        with pytest.raises(ValueError, match="no MIG instance 0"):
            simulator.set_utilization(0, 0.5, instance=0)
