"""Faults by command: what a reader of the library sees, and what the controller makes of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apportion.core.clock import ManualClock
from apportion.simulator import PROFILES, ProcessLoad, Simulator, environment
from apportion.simulator.faults import KINDS, FaultBoard, FaultError
from apportion.simulator.state import MAX_EVENTS

Ask = Callable[[Path, str], Any]
AskTwice = Callable[[Path, str, Callable[[], None]], Any]
SECOND_NS = 1_000_000_000

READ = """
    def read(index):
        '''The error code of a device, 0 where it answers.'''
        try:
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            nvml.nvmlDeviceGetUUID(device)
            return code(nvml.nvmlDeviceGetTotalEnergyConsumption, device)
        except nvml.NVMLError as error:
            return error.value

"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lost", 15), ("reset-required", 16), ("no-permission", 4), ("unknown", 999)],
)
def test_one_device_answers_with_an_error(
    tmp_path: Path, ask: Ask, name: str, expected: int
) -> None:
    """Its neighbours answer as before, and so does it once the fault is over."""
    program = f"{READ}    nvml.nvmlInit()\n    answer = [read(index) for index in range(3)]"
    with Simulator(tmp_path / "state", devices=3, clock=ManualClock()) as simulator:
        simulator.fault(name, 1)
        assert ask(simulator.state, program) == [0, expected, 0]
        simulator.clear(1)
        assert ask(simulator.state, program) == [0, 0, 0]


@pytest.mark.parametrize(("name", "expected"), [("driver-mismatch", 18), ("driver-unloaded", 9)])
def test_the_whole_library_answers_with_an_error(
    tmp_path: Path, ask: Ask, ask_twice: AskTwice, name: str, expected: int
) -> None:
    """Every call of who had it open, and every new init; both work when it is over."""
    program = """
        nvml.nvmlInit()
        one = nvml.nvmlDeviceGetHandleByIndex(0)
        pause()
        answer = [code(nvml.nvmlDeviceGetUUID, one)]
        nvml.nvmlShutdown()
        answer.append(code(nvml.nvmlInit))
    """
    with Simulator(tmp_path / "state", clock=ManualClock()) as simulator:
        answer = ask_twice(simulator.state, program, lambda: simulator.fault(name))
        assert answer == [expected, expected]
        simulator.clear()
        assert ask(simulator.state, "answer = code(nvml.nvmlInit)") == 0


def test_a_reloaded_driver_refuses_who_was_there_before(
    tmp_path: Path, ask: Ask, ask_twice: AskTwice
) -> None:
    """Not even a new init helps that process; another process sees counters that began anew."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", clock=clock) as simulator:
        answer = ask_twice(
            simulator.state,
            """
            nvml.nvmlInit()
            one = nvml.nvmlDeviceGetHandleByIndex(0)
            pause()
            answer = [code(nvml.nvmlDeviceGetUUID, one), code(nvml.nvmlShutdown)]
            answer.append(code(nvml.nvmlInit))
            """,
            lambda: simulator.fault("driver-reload"),
        )
        assert answer == [18, 0, 18]
        clock.advance(10 * SECOND_NS)
        simulator.advance()
        energy_mj = ask(
            simulator.state,
            """
            nvml.nvmlInit()
            answer = nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(0))
            """,
        )
    assert energy_mj == 10 * PROFILES["h100"].power_idle_mw


def test_a_call_that_hangs_returns_when_the_fault_is_over(tmp_path: Path, ask: Ask) -> None:
    """Only calls about that device wait, and another thread may go on."""
    with Simulator(tmp_path / "state", devices=2, clock=ManualClock()) as simulator:
        answer = ask(
            simulator.state,
            f"""
            import threading
            from pathlib import Path
            from apportion.simulator.faults import FaultBoard
            board = FaultBoard(Path({str(simulator.state)!r}))
            nvml.nvmlInit()
            devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(2)]
            board.inject("hang", 1)
            done = []
            thread = threading.Thread(
                target=lambda: done.append(nvml.nvmlDeviceGetUUID(devices[1])), daemon=True
            )
            thread.start()
            answer = [code(nvml.nvmlDeviceGetUUID, devices[0]), len(done)]
            board.clear()
            thread.join(30)
            answer.append(len(done))
            """,
        )
    assert answer == [0, 0, 1]


def test_a_fault_ends_by_itself(tmp_path: Path, ask: Ask) -> None:
    """`--for` is a time of the real clock, which the library reads itself."""
    with Simulator(tmp_path / "state") as simulator:
        simulator.fault("hang", 0, for_ns=200_000_000)
        begun = time.monotonic()
        program = """
            nvml.nvmlInit()
            answer = code(nvml.nvmlDeviceGetHandleByIndex, 0)
        """
        assert ask(simulator.state, program) == 0
    assert time.monotonic() - begun >= 0.2


def test_slow_calls_take_longer(tmp_path: Path, ask: Ask) -> None:
    """Each call about the device takes at least what was asked for."""
    with Simulator(tmp_path / "state", clock=ManualClock()) as simulator:
        simulator.fault("slow", 0, value=30_000)
        elapsed_ns = ask(
            simulator.state,
            """
            import time
            nvml.nvmlInit()
            one = nvml.nvmlDeviceGetHandleByIndex(0)
            begun = time.monotonic_ns()
            nvml.nvmlDeviceGetUUID(one)
            nvml.nvmlDeviceGetFieldValues(one, [83])
            answer = time.monotonic_ns() - begun
            """,
        )
    assert elapsed_ns >= 60_000_000


def test_a_crash_is_the_end_of_the_process(tmp_path: Path, library: Path) -> None:
    """With SIGSEGV, as a fault inside a driver's library is."""
    program = (
        "import pynvml as nvml; nvml.nvmlInit()\n"
        "nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(0))\n"
        "nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(1))"
    )
    with Simulator(tmp_path / "state", devices=2, clock=ManualClock()) as simulator:
        simulator.fault("crash", 1)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": "", **environment(simulator.state, library)},
            capture_output=True,
            check=False,
        )
    assert done.returncode == -11


def test_a_device_that_vanishes_shifts_the_others(tmp_path: Path, ask: Ask) -> None:
    """Its handle is dead for good where it was open; a new init counts one less, then it again."""
    with Simulator(tmp_path / "state", devices=2, clock=ManualClock()) as simulator:
        answer = ask(
            simulator.state,
            f"""
            from pathlib import Path
            from apportion.simulator.faults import FaultBoard
            board = FaultBoard(Path({str(simulator.state)!r}))
            def listed():
                return [nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index))
                        for index in range(nvml.nvmlDeviceGetCount())]
            nvml.nvmlInit()
            first = nvml.nvmlDeviceGetHandleByIndex(0)
            answer = [listed()]
            board.inject("vanish", 0)
            answer.append([code(nvml.nvmlDeviceGetUUID, first), nvml.nvmlDeviceGetCount()])
            nvml.nvmlShutdown()
            nvml.nvmlInit()
            answer.append(listed())
            board.clear(0)
            answer.append(code(nvml.nvmlDeviceGetUUID, first))
            nvml.nvmlShutdown()
            nvml.nvmlInit()
            answer.append(listed())
            """,
        )
        one, two = simulator.uuids
        assert answer == [[one, two], [15, 2], [two], 2, [one, two]]


def test_garbage_in_process_lists(tmp_path: Path, ask: Ask) -> None:
    """Pids, bytes and shares that cannot be, beside a true row."""
    with Simulator(tmp_path / "state", clock=ManualClock()) as simulator:
        simulator.set_processes(0, [ProcessLoad(11, 1_000, 0.5), ProcessLoad(12, 2_000, 0.25)])
        simulator.fault("garbage-processes", 0)
        rows, shares = ask(
            simulator.state,
            """
            nvml.nvmlInit()
            one = nvml.nvmlDeviceGetHandleByIndex(0)
            answer = [
                [[p.pid, p.usedGpuMemory] for p in nvml.nvmlDeviceGetComputeRunningProcesses(one)],
                [s.smUtil for s in nvml.nvmlDeviceGetProcessUtilization(one, 0)],
            ]
            """,
        )
    assert [12, 2_000] in rows
    assert len([pid for pid, _ in rows if pid > 2**31]) == 2
    assert 25 in shares
    assert max(shares) > 100


HEALTH = """
    nvml.nvmlInit()
    one = nvml.nvmlDeviceGetHandleByIndex(0)
    fields = [3, 4, 5, 6, 142, 143, 144, 230, 74, 75, 269, 270]
    answer = {
        "fields": [field.value.ullVal for field in nvml.nvmlDeviceGetFieldValues(one, fields)],
        "ecc": [nvml.nvmlDeviceGetTotalEccErrors(one, 0, 0),
                nvml.nvmlDeviceGetMemoryErrorCounter(one, 1, 1, 2)],
        "rows": nvml.nvmlDeviceGetRemappedRows(one),
        "reasons": nvml.nvmlDeviceGetCurrentClocksEventReasons(one),
        "clock": nvml.nvmlDeviceGetClockInfo(one, 1),
        "celsius": nvml.nvmlDeviceGetTemperature(one, 0),
    }
"""


def test_a_storm_of_ecc_errors_and_the_reset_after_it(tmp_path: Path, ask: Ask) -> None:
    """Errors grow at their rate; a reset remaps rows and begins the volatile counts anew."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", clock=clock) as simulator:
        simulator.fault("ecc-storm", 0, value=100)
        clock.advance(4 * SECOND_NS)
        simulator.advance()
        stormy = ask(simulator.state, HEALTH)
        simulator.clear()
        simulator.fault("counter-reset", 0)
        calm = ask(simulator.state, HEALTH)
    assert stormy["fields"][:8] == [400, 4, 400, 4, 0, 0, 1, 1]
    assert stormy["ecc"] == [400, 4]
    assert stormy["rows"] == [0, 0, 1, 0]
    assert calm["fields"][:8] == [0, 0, 400, 4, 0, 4, 0, 0]
    assert calm["ecc"] == [0, 4]


@pytest.mark.parametrize(
    ("name", "reasons", "clock_mhz", "counters"),
    [
        ("thermal", 0x68, 990, [0, 2, 2, 2]),
        ("power-cap", 0x4, 1_584, [2, 0, 0, 0]),
    ],
)
def test_limited_clocks(
    tmp_path: Path, ask: Ask, name: str, reasons: int, clock_mhz: int, counters: list[int]
) -> None:
    """The reason is active, the clock lower, and the time counted in nanoseconds by reason."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", clock=clock) as simulator:
        simulator.set_utilization(0, 0.5)
        clock.advance(SECOND_NS)
        simulator.fault(name, 0)
        clock.advance(2 * SECOND_NS)
        simulator.advance()
        answer = ask(simulator.state, HEALTH)
    assert answer["reasons"] == reasons
    assert answer["clock"] == clock_mhz
    # The publication that switched the fault on counts from then.
    assert answer["fields"][8:] == [count * SECOND_NS for count in counters]
    if name == "thermal":
        assert answer["celsius"] == PROFILES["h100"].slowdown_c


def test_counters_of_32_bits(tmp_path: Path, ask: Ask) -> None:
    """As nvml.h says of PCIe bytes: they can wrap."""
    clock = ManualClock()
    with Simulator(tmp_path / "state", clock=clock) as simulator:
        simulator.set_utilization(0, 1.0)
        simulator.fault("counter-wrap", 0)
        clock.advance(10 * SECOND_NS)
        simulator.advance()
        (count,) = ask(
            simulator.state,
            """
            nvml.nvmlInit()
            one = nvml.nvmlDeviceGetHandleByIndex(0)
            answer = [nvml.nvmlDeviceGetFieldValues(one, [197])[0].value.ullVal]
            """,
        )
    assert count == 30_000_000_000 % 2**32


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    """In one sentence that names what there is."""
    with Simulator(tmp_path / "state", devices=2, clock=ManualClock()) as simulator:
        with pytest.raises(FaultError, match="no fault 'fire'; known are lost"):
            simulator.fault("fire", 0)
        with pytest.raises(FaultError, match="no GPU 2: there are 2"):
            simulator.fault("lost", 2)
        with pytest.raises(FaultError, match="lost cannot be a fault of the whole library"):
            simulator.fault("lost")
        with pytest.raises(FaultError, match="driver-mismatch cannot be a fault of one GPU"):
            simulator.fault("driver-mismatch", 0)
        with pytest.raises(FaultError, match="no GPU 7"):
            simulator.xid(7, 79)
    with pytest.raises(FaultError, match="start the devices first"):
        FaultBoard(tmp_path / "absent")
    (tmp_path / "other").write_bytes(b"x" * 8_192)
    with pytest.raises(FaultError, match="no state file of this release"):
        FaultBoard(tmp_path / "other")
    (tmp_path / "small").write_bytes(b"x")
    with pytest.raises(FaultError, match="no simulator's state file"):
        FaultBoard(tmp_path / "small")


@pytest.mark.parametrize("name", KINDS)
def test_every_fault_can_be_given_and_taken_back(tmp_path: Path, name: str) -> None:
    """No switch is another's, and clear leaves none on."""
    with Simulator(tmp_path / "state", devices=2, clock=ManualClock()) as simulator:
        board = FaultBoard(simulator.state)
        kind = KINDS[name]
        simulator.fault(name, 1 if kind.single else None)
        on = board.in_force(1, 0) if kind.single else {}
        assert set(on) <= {kind.switch}
        assert board.in_force(0, 0) == {}
        simulator.clear()
        assert board.in_force(1, 0) == {}
        board.close()


def test_events_reach_who_listens(tmp_path: Path, ask: Ask) -> None:
    """From registration on, each once, in order; then a timeout, and a lost device is an error."""
    program = f"""
        from pathlib import Path
        from apportion.simulator.faults import FaultBoard
        board = FaultBoard(Path({str(tmp_path / "state")!r}))
        nvml.nvmlInit()
        devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(2)]
        events = nvml.nvmlEventSetCreate()
        board.xid(0, 13)
        for device in devices:
            nvml.nvmlDeviceRegisterEvents(device, 0x208, events)
        def wait():
            try:
                data = nvml.nvmlEventSetWait_v2(events, 40)
            except nvml.NVMLError as error:
                return error.value
            return [nvml.nvmlDeviceGetIndex(data.device), data.eventType, data.eventData,
                    data.gpuInstanceId]
        answer = [wait()]
        board.xid(1, 79)
        board.xid(0, 31)
        board.inject("ecc-storm", 1)
        answer += [wait() for _ in range(4)]
        for number in range({MAX_EVENTS} + 5):
            board.xid(0, number + 1)
        answer.append([wait()[2] for _ in range({MAX_EVENTS})])
        board.inject("lost", 1)
        answer += [wait(), code(nvml.nvmlEventSetFree, events)]
        events = nvml.nvmlEventSetCreate()
        answer.append(code(nvml.nvmlDeviceRegisterEvents, devices[0], 0x10, events))
    """
    with Simulator(tmp_path / "state", devices=2, clock=ManualClock()) as simulator:
        answer = ask(simulator.state, program)
    nobody = 2**32 - 1
    assert answer == [
        10,
        [0, 8, 31, nobody],
        [1, 8, 79, nobody],
        [1, 0x200, 0, nobody],
        10,
        [number + 6 for number in range(MAX_EVENTS)],
        15,
        0,
        3,
    ]
