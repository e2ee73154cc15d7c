from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apportion.core.clock import ManualClock
from apportion.simulator import PROFILES, SIMULATED_MARK, Mirror, ProcessLoad, Simulator

Ask = Callable[[Path, str], Any]
MIB = 1024 * 1024
SECOND_NS = 1_000_000_000


def test_identity_and_facts_of_an_h100(tmp_path: Path, ask: Ask) -> None:
    """Every static call that nvidia-ml-py makes answers what the profile says."""
    with Simulator(tmp_path / "state", devices=8, clock=ManualClock()) as simulator:
        answer = ask(
            simulator.state,
            """
            nvml.nvmlInit()
            devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            one = devices[5]
            pci = nvml.nvmlDeviceGetPciInfo(one)
            extended = nvml.nvmlPciInfoExt_v1_t(version=nvml.nvmlPciInfoExt_v1)
            nvml.nvmlDeviceGetPciInfoExt(one, nvml.byref(extended))
            memory = nvml.nvmlDeviceGetMemoryInfo(one)
            memory2 = nvml.nvmlDeviceGetMemoryInfo(one, version=nvml.nvmlMemory_v2)
            answer = {
                "uuids": [nvml.nvmlDeviceGetUUID(device) for device in devices],
                "name": nvml.nvmlDeviceGetName(one),
                "driver": nvml.nvmlSystemGetDriverVersion(),
                "nvml": nvml.nvmlSystemGetNVMLVersion(),
                "cuda": nvml.nvmlSystemGetCudaDriverVersion(),
                "index": nvml.nvmlDeviceGetIndex(one),
                "minor": nvml.nvmlDeviceGetMinorNumber(one),
                "bus": [pci.busId, pci.busIdLegacy, extended.busId, hex(pci.pciDeviceId)],
                "found": [
                    nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(
                        nvml.nvmlDeviceGetUUID(one))),
                    nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByPciBusId(pci.busId)),
                    nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleBySerial(
                        nvml.nvmlDeviceGetSerial(one))),
                ],
                "memory": [memory.total, memory.used, memory.free],
                "memory2": [memory2.total, memory2.reserved, memory2.used, memory2.free],
                "limits": [
                    nvml.nvmlDeviceGetPowerManagementLimit(one),
                    nvml.nvmlDeviceGetEnforcedPowerLimit(one),
                    nvml.nvmlDeviceGetPowerManagementLimitConstraints(one),
                ],
                "clocks": [nvml.nvmlDeviceGetMaxClockInfo(one, i) for i in range(4)],
                "capability": nvml.nvmlDeviceGetCudaComputeCapability(one),
                "architecture": nvml.nvmlDeviceGetArchitecture(one),
                "brand": nvml.nvmlDeviceGetBrand(one),
                "modes": [
                    nvml.nvmlDeviceGetPersistenceMode(one),
                    nvml.nvmlDeviceGetComputeMode(one),
                    nvml.nvmlDeviceGetDisplayMode(one),
                    nvml.nvmlDeviceGetEccMode(one),
                    nvml.nvmlDeviceGetMigMode(one),
                ],
                "links": [nvml.nvmlDeviceGetNvLinkState(one, link) for link in range(18)],
                "pcie": [
                    nvml.nvmlDeviceGetMaxPcieLinkGeneration(one),
                    nvml.nvmlDeviceGetCurrPcieLinkWidth(one),
                ],
                "shutdown": nvml.nvmlDeviceGetTemperatureThreshold(one, 0),
            }
            """,
        )
        uuids = list(simulator.uuids)
    assert answer == {
        "uuids": uuids,
        "name": "NVIDIA H100 80GB HBM3",
        "driver": f"580.00.{SIMULATED_MARK}",
        "nvml": f"13.580.{SIMULATED_MARK}",
        "cuda": 13_000,
        "index": 5,
        "minor": 5,
        "bus": ["00000000:1F:00.0", "0000:1F:00.0", "00000000:1F:00.0", "0x233010de"],
        "found": [5, 5, 5],
        "memory": [81_559 * MIB, 479 * MIB, (81_559 - 479) * MIB],
        "memory2": [81_559 * MIB, 479 * MIB, 0, (81_559 - 479) * MIB],
        "limits": [700_000, 700_000, [200_000, 700_000]],
        "clocks": [1_980, 1_980, 2_619, 1_545],
        "capability": [9, 0],
        "architecture": 9,
        "brand": 14,
        "modes": [1, 0, 0, [1, 1], [0, 0]],
        "links": [1] * 18,
        "pcie": [5, 16],
        "shutdown": 92,
    }
    assert len(set(uuids)) == 8


def test_uuids_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Two runs of the same demo see the same devices; another seed sees others."""
    clock = ManualClock()
    with (
        Simulator(tmp_path / "a", devices=3, clock=clock) as first,
        Simulator(tmp_path / "b", devices=3, clock=clock) as again,
        Simulator(tmp_path / "c", devices=3, seed=1, clock=clock) as other,
    ):
        assert first.uuids == again.uuids
        assert not set(first.uuids) & set(other.uuids)


VALUES = """
    nvml.nvmlInit()
    one = nvml.nvmlDeviceGetHandleByIndex(0)
    use = nvml.nvmlDeviceGetUtilizationRates(one)
    fields = nvml.nvmlDeviceGetFieldValues(
        one, [83, 191, 185, 186, (186, 1), 82, 91, (138, 0), (139, 17), (138, 0xffffffff),
              (138, 18), 197, 198, 202, 999]
    )
    answer = {
        "energy_mj": nvml.nvmlDeviceGetTotalEnergyConsumption(one),
        "power_mw": nvml.nvmlDeviceGetPowerUsage(one),
        "utilization": [use.gpu, use.memory],
        "temperature": [
            nvml.nvmlDeviceGetTemperatureV(one, 0), nvml.nvmlDeviceGetTemperature(one, 0),
        ],
        "clocks": [nvml.nvmlDeviceGetClockInfo(one, clock) for clock in range(4)],
        "state": nvml.nvmlDeviceGetPerformanceState(one),
        "reasons": nvml.nvmlDeviceGetCurrentClocksEventReasons(one),
        "pcie": [nvml.nvmlDeviceGetPcieThroughput(one, counter) for counter in range(2)],
        "encoder": nvml.nvmlDeviceGetEncoderUtilization(one),
        "fields": [
            [field.nvmlReturn, field.value.ullVal if field.nvmlReturn == 0 else None]
            for field in fields
        ],
        "stamps": sorted({field.timestamp for field in fields}),
    }
"""


def test_what_a_busy_h100_shows(tmp_path: Path, ask: Ask) -> None:
    """After ten seconds at 90 %: power, energy, heat, clocks, traffic, each in NVML's unit."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", devices=2, clock=clock, pcie_query_ns=0) as simulator:
        first_mj = simulator.energy_mj(0)
        simulator.set_utilization(0, 0.9)
        clock.advance(10 * SECOND_NS)
        simulator.advance()
        answer = ask(simulator.state, VALUES)
    assert answer["energy_mj"] - first_mj == 10 * 637_000
    assert answer["power_mw"] == 637_000
    assert answer["utilization"] == [90, 45]
    assert answer["temperature"][0] == answer["temperature"][1]
    assert 30 < answer["temperature"][0] < 63
    assert answer["clocks"] == [1_980, 1_980, 2_619, 1_545]
    assert (answer["state"], answer["reasons"]) == (0, 0)
    assert answer["pcie"] == [2_700_000, 2_700_000]
    assert answer["encoder"] == [0, 166_667]
    link_kib = 10 * 1_800_000_000 // 1_024
    temperature = answer["temperature"][0]
    assert answer["fields"] == [
        [0, answer["energy_mj"]],
        [0, answer["energy_mj"]],
        [0, 637_000],
        [0, 637_000],
        [3, None],  # no module around this GPU
        [0, temperature - 5],
        [0, 18],
        [0, link_kib],
        [0, link_kib],
        [0, 18 * link_kib],
        [2, None],  # there is no nineteenth link
        [0, 27_000_000_000],
        [0, 27_000_000_000],
        [3, None],  # a counter of the next NVLink
        [2, None],  # no such field
    ]
    assert answer["stamps"] == [(1_700_000_000 + 10) * 1_000_000]


def test_an_idle_l40s_sleeps(tmp_path: Path, ask: Ask) -> None:
    """An idle device: lowest clocks, P8, the idle reason, and no NVLink where there is none."""
    clock = ManualClock()
    with Simulator(
        tmp_path / "state", profile=PROFILES["l40s"], devices=2, clock=clock, pcie_query_ns=0
    ) as simulator:
        clock.advance(SECOND_NS)
        simulator.advance()
        answer = ask(simulator.state, VALUES)
    assert answer["power_mw"] == 35_000
    assert answer["utilization"] == [0, 0]
    assert answer["clocks"] == [210, 210, 405, 1_185]
    assert (answer["state"], answer["reasons"]) == (8, 1)
    assert [code for code, _ in answer["fields"]] == [0, 0, 0, 0, 3, 3, 0, 3, 3, 3, 3, 0, 0, 3, 2]
    assert answer["fields"][6] == [0, 0]


def test_power_is_of_this_moment_where_the_model_does_not_average(tmp_path: Path, ask: Ask) -> None:
    """An H100 averages over a second; on an A100 field 185 does not exist and power is instant."""
    program = """
        nvml.nvmlInit()
        one = nvml.nvmlDeviceGetHandleByIndex(0)
        average = nvml.nvmlDeviceGetFieldValues(one, [185])[0]
        answer = [nvml.nvmlDeviceGetPowerUsage(one), average.nvmlReturn]
    """
    clock = ManualClock()
    answers: dict[str, list[int]] = {}
    for name in ("h100", "a100"):
        with Simulator(tmp_path / name, profile=PROFILES[name], clock=clock) as simulator:
            clock.advance(2 * SECOND_NS)
            simulator.set_utilization(0, 1.0)
            clock.advance(SECOND_NS // 2)
            simulator.advance()
            answers[name] = ask(simulator.state, program)
    assert answers == {"h100": [385_000, 0], "a100": [400_000, 3]}


def test_unsupported_is_a_code_and_never_a_zero(tmp_path: Path, ask: Ask) -> None:
    """What the parts cannot do raises NOT_SUPPORTED, wrong arguments raise INVALID_ARGUMENT."""
    with Simulator(tmp_path / "state", profile=PROFILES["t4"], clock=ManualClock()) as simulator:
        answer = ask(
            simulator.state,
            """
            before = code(nvml.nvmlShutdown)
            nvml.nvmlInit()
            one = nvml.nvmlDeviceGetHandleByIndex(0)
            answer = {
                "before init": before,
                "fan": code(nvml.nvmlDeviceGetFanSpeed, one),
                "samples": code(nvml.nvmlDeviceGetSamples, one, 4, 0),
                "mig": code(nvml.nvmlDeviceGetMigMode, one),
                "nvlink": code(nvml.nvmlDeviceGetNvLinkState, one, 0),
                "gpm": code(nvml.nvmlGpmSampleGet, one, nvml.nvmlGpmSampleAlloc()),
                "remapped": code(nvml.nvmlDeviceGetRemappedRows, one),
                "instance": code(nvml.nvmlDeviceGetMigDeviceHandleByIndex, one, 0),
                "memory threshold": code(nvml.nvmlDeviceGetTemperatureThreshold, one, 2),
                "sensor": code(nvml.nvmlDeviceGetTemperature, one, 7),
                "index": code(nvml.nvmlDeviceGetHandleByIndex, 1),
                "uuid": code(nvml.nvmlDeviceGetHandleByUUID, "GPU-none"),
                "handle": code(nvml.nvmlDeviceGetName, nvml.c_nvmlDevice_t()),
            }
            nvml.nvmlShutdown()
            answer["after shutdown"] = code(nvml.nvmlDeviceGetCount)
            answer["stub after shutdown"] = code(nvml.nvmlDeviceGetFanSpeed, one)
            """,
        )
    assert answer == {
        "before init": 1,
        "fan": 3,
        "samples": 3,
        "mig": 3,
        "nvlink": 3,
        "gpm": 3,
        "remapped": 3,
        "instance": 3,
        "memory threshold": 3,
        "sensor": 2,
        "index": 2,
        "uuid": 6,
        "handle": 2,
        "after shutdown": 1,
        "stub after shutdown": 1,
    }


def test_init_is_counted(tmp_path: Path, ask: Ask) -> None:
    """Two inits need two shutdowns, and a third shutdown is UNINITIALIZED."""
    with Simulator(tmp_path / "state", clock=ManualClock()) as simulator:
        answer = ask(
            simulator.state,
            """
            nvml.nvmlInit()
            nvml.nvmlInitWithFlags(0)
            nvml.nvmlShutdown()
            answer = [nvml.nvmlDeviceGetCount()]
            nvml.nvmlShutdown()
            answer += [code(nvml.nvmlShutdown), code(nvml.nvmlInit), nvml.nvmlDeviceGetCount()]
            """,
        )
    assert answer == [1, 1, 0, 1]


PROCESSES = """
    import ctypes
    nvml.nvmlInit()
    one = nvml.nvmlDeviceGetHandleByIndex(0)
    running = nvml._nvmlGetFunctionPointer("nvmlDeviceGetComputeRunningProcesses_v3")
    count = ctypes.c_uint(0)
    dance = [running(one, ctypes.byref(count), None), count.value]
    count.value = 1
    room = (nvml.c_nvmlProcessInfo_v3_t * 2)()
    dance += [running(one, ctypes.byref(count), room), count.value]
    dance += [running(one, ctypes.byref(count), room), count.value]
    try:
        samples = nvml.nvmlDeviceGetProcessUtilization(one, 0)
        shares = [[sample.pid, sample.smUtil, sample.memUtil] for sample in samples]
        newest = max(sample.timeStamp for sample in samples)
        again = code(nvml.nvmlDeviceGetProcessUtilization, one, newest)
    except nvml.NVMLError as error:
        shares, again = error.value, None
    answer = {
        "dance": dance,
        "compute": [
            [process.pid, process.usedGpuMemory, process.gpuInstanceId]
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(one)
        ],
        "graphics": nvml.nvmlDeviceGetGraphicsRunningProcesses(one),
        "mps": nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(one),
        "shares": shares,
        "again": again,
        "used": nvml.nvmlDeviceGetMemoryInfo(one, version=nvml.nvmlMemory_v2).used,
    }
"""


def test_processes_are_listed_by_the_two_call_dance(tmp_path: Path, ask: Ask) -> None:
    """No room or too little is INSUFFICIENT_SIZE with the count, enough is the list itself."""
    with Simulator(tmp_path / "state", clock=ManualClock()) as simulator:
        simulator.set_memory(0, 2_000)
        simulator.set_processes(
            0, [ProcessLoad(4_711, 3_000, 0.25), ProcessLoad(4_712, 1_000, 0.0)]
        )
        answer = ask(simulator.state, PROCESSES)
    assert answer == {
        "dance": [7, 2, 7, 2, 0, 2],
        "compute": [[4_711, 3_000, 0xFFFFFFFF], [4_712, 1_000, 0xFFFFFFFF]],
        "graphics": [],
        "mps": [],
        "shares": [[4_711, 25, 13]],
        "again": 6,
        "used": 4_000,
    }


def test_nobody_running_is_not_found(tmp_path: Path, ask: Ask) -> None:
    """An idle device: an empty list at the first call, and NOT_FOUND for shares."""
    with Simulator(tmp_path / "state", clock=ManualClock()) as simulator:
        answer = ask(simulator.state, PROCESSES)
    assert answer["dance"][:2] == [0, 0]
    assert (answer["compute"], answer["shares"]) == ([], 6)


def test_energy_grows_with_nobody_asking_and_stops_with_the_controller(
    tmp_path: Path, ask: Ask
) -> None:
    """A reader that comes late sees all of it; after the end nothing moves any more."""
    program = """
        nvml.nvmlInit()
        answer = nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(0))
    """
    clock = ManualClock()
    with Simulator(tmp_path / "state", clock=clock) as simulator:
        first_mj = ask(simulator.state, program)
        clock.advance(3_600 * SECOND_NS)
        simulator.advance()
        assert ask(simulator.state, program) - first_mj == 70_000 * 3_600
    clock.advance(3_600 * SECOND_NS)
    simulator.advance()
    simulator.close()
    assert ask(tmp_path / "state", program) - first_mj == 70_000 * 3_600


def test_a_new_controller_is_a_driver_reload(tmp_path: Path, ask: Ask) -> None:
    """An open library keeps the frozen values of the old file until it is initialised again."""
    program = f"""
        import os
        nvml.nvmlInit()
        one = nvml.nvmlDeviceGetHandleByIndex(0)
        answer = [nvml.nvmlDeviceGetUUID(one)]
        os.replace({str(tmp_path / "next")!r}, {str(tmp_path / "state")!r})
        answer.append(nvml.nvmlDeviceGetUUID(one))
        nvml.nvmlShutdown()
        nvml.nvmlInit()
        answer.append(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(0)))
    """
    clock = ManualClock()
    with (
        Simulator(tmp_path / "state", clock=clock) as old,
        Simulator(tmp_path / "next", seed=1, clock=clock) as new,
    ):
        assert ask(old.state, program) == [old.uuids[0], old.uuids[0], new.uuids[0]]


def test_what_does_not_fit_a_device_is_refused(tmp_path: Path) -> None:
    """Errors name the value and what would be right, and change nothing."""
    with Simulator(tmp_path / "state", clock=ManualClock()) as simulator:
        with pytest.raises(ValueError, match="give a number from 0 to 1"):
            simulator.set_utilization(0, 90)
        with pytest.raises(ValueError, match="has 85018542080 bytes to use"):
            simulator.set_memory(0, 80 * 1024**3)
        with pytest.raises(ValueError, match="a device lists at most 32"):
            simulator.set_processes(0, [ProcessLoad(pid) for pid in range(1, 34)])
        with pytest.raises(ValueError, match="give a positive pid"):
            simulator.set_processes(0, [ProcessLoad(0)])
        with pytest.raises(ValueError, match="no device 1: there are 1, counted from 0"):
            simulator.mirror(Mirror({os.getpid(): [1]}))
        with pytest.raises(IndexError):
            simulator.set_utilization(1, 0.5)


def test_running_publishes_in_the_background(tmp_path: Path) -> None:
    """On the real clock the energy counter moves without a call, and stops with the block."""
    with Simulator(tmp_path / "state") as simulator:
        before = simulator.state.read_bytes()
        with simulator.running():
            deadline_ns = time.monotonic_ns() + 30 * SECOND_NS
            while simulator.state.read_bytes() == before and time.monotonic_ns() < deadline_ns:
                threading.Event().wait(0.01)
        assert simulator.state.read_bytes() != before
        assert "simulator" not in {thread.name for thread in threading.enumerate()}


def test_a_mirror_drives_utilisation_and_processes(tmp_path: Path, ask: Ask) -> None:
    """The devices of a process follow its CPU time; devices that it is not on stay idle."""
    proc_root = tmp_path / "proc"
    process = proc_root / "4711"
    process.mkdir(parents=True)
    (process / "statm").write_text("9 5 1 1 0 1 0")

    def spend(ticks: int) -> None:
        text = f"4711 (train me) R 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 77 0 0"
        (process / "stat").write_text(text)

    clock = ManualClock()
    with Simulator(tmp_path / "state", devices=3, clock=clock) as simulator:
        spend(0)
        simulator.mirror(
            Mirror({4_711: [0, 2]}, cores=2, proc_root=proc_root, ticks_per_second=100)
        )
        simulator.advance()
        spend(100)  # one of the two seconds of CPU that two cores have
        clock.advance(SECOND_NS)
        simulator.advance()
        clock.advance(SECOND_NS // 6 + 1)
        spend(100)
        simulator.advance()
        answer = ask(
            simulator.state,
            """
            nvml.nvmlInit()
            answer = []
            for index in range(3):
                one = nvml.nvmlDeviceGetHandleByIndex(index)
                answer.append([
                    nvml.nvmlDeviceGetUtilizationRates(one).gpu,
                    [p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(one)],
                ])
            """,
        )
    assert answer == [[50, [4_711]], [0, []], [50, [4_711]]]
