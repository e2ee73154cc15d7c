"""What the child sends, on a clock that tests turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest

from apportion.collectors.nvml_child import FRESH, Outside, Sampling, main, sample
from apportion.collectors.nvml_error import NvmlCode
from apportion.collectors.nvml_frames import FrameReader
from apportion.collectors.nvml_messages import (
    Begin,
    DeviceAnswer,
    End,
    Hello,
    Message,
    NvmlState,
    Report,
)
from apportion.collectors.testing import EVERY_CALL, FakeGpu, FakeNvml
from apportion.core.clock import ManualClock

Until = Callable[[Callable[[], bool]], None]
PERIOD_NS = 1_000


class Parent:
    """The other end: keeps the messages, turns the clock, goes away after some sweeps."""

    def __init__(self, clock: ManualClock, sweeps: int, says: bytes = b"") -> None:
        self.clock = clock
        self.says = says
        self.sweeps = sweeps
        self.due: list[int] = []
        self.messages: list[Message] = []
        self._reader = FrameReader()

    def outside(self) -> Outside:
        return Outside(self._receive, self._wait)

    def _receive(self, frame: bytes) -> None:
        self.messages.extend(self._reader.feed(frame))

    def _wait(self, until_ns: int) -> bytes | None:
        self.due.append(until_ns)
        self.clock.advance(max(0, until_ns - self.clock.monotonic_ns()))
        return self.says if len(self.due) <= self.sweeps else None


def ran(
    library: FakeNvml, sweeps: int = 2, skip: frozenset[int] = frozenset(), says: bytes = b""
) -> Parent:
    clock = ManualClock(monotonic_ns=500)
    parent = Parent(clock, sweeps, says)
    sampling = Sampling(PERIOD_NS, 5 * PERIOD_NS, skip)
    assert sample(library, clock, parent.outside(), sampling)
    assert library.opened == 0
    return parent


def test_order_of_messages() -> None:
    """The parent finds the device that hangs by what is missing between begin and end."""
    parent = ran(FakeNvml([FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b")]))
    kinds = [type(message) for message in parent.messages]
    sweep = [Begin, DeviceAnswer, DeviceAnswer, End]
    assert kinds == [Hello, *sweep, *sweep]
    assert parent.messages[0] == Hello("580.95.05", (0, 1), 2)


def test_deadlines_stay_on_one_grid() -> None:
    """A slow sweep delays the next, it does not shift all that follow; missed ones are left out."""
    gpu = FakeGpu()
    library = FakeNvml([gpu])
    clock = ManualClock(monotonic_ns=500)
    parent = Parent(clock, sweeps=6)
    slow = iter([0, 300, 2_500, 0, 0, 0])
    outside = parent.outside()

    def send(frame: bytes) -> None:
        before = len(parent.messages)
        outside.send(frame)
        if any(isinstance(message, Begin) for message in parent.messages[before:]):
            clock.advance(next(slow))

    sample(library, clock, Outside(send, outside.wait), Sampling(PERIOD_NS, 5 * PERIOD_NS))
    assert parent.due == [500, 1_500, 2_500, 5_500, 6_500, 7_500, 8_500]
    assert all((after - before) % PERIOD_NS == 0 for before, after in pairwise(parent.due))


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (NvmlCode.LIBRARY_NOT_FOUND, NvmlState.NO_LIBRARY),
        (NvmlCode.DRIVER_NOT_LOADED, NvmlState.NO_DRIVER),
        (NvmlCode.LIB_RM_VERSION_MISMATCH, NvmlState.MISMATCH),
        (NvmlCode.UNKNOWN, NvmlState.FAILED),
    ],
)
def test_a_source_that_fails_is_reported_with_its_state(code: int, state: NvmlState) -> None:
    """The sentence comes from the error table."""
    library = FakeNvml([FakeGpu()])
    library.errors["init"] = code
    (report,) = ran(library).messages
    assert isinstance(report, Report)
    assert report.state is state
    assert NvmlCode(code).name in report.reason


def test_a_driver_upgrade_under_way_ends_the_child() -> None:
    """Only a new process loads the new library."""
    gpu = FakeGpu(errors={"device_get_uuid": NvmlCode.LIB_RM_VERSION_MISMATCH})
    parent = ran(FakeNvml([gpu]))
    assert isinstance(parent.messages[-1], Report)
    assert parent.messages[-1].state is NvmlState.MISMATCH


def test_all_devices_lost_ends_the_child_after_naming_them() -> None:
    """Opening NVML anew is what may bring them back."""
    gpus = [FakeGpu(errors={EVERY_CALL: NvmlCode.GPU_IS_LOST}) for _ in range(2)]
    parent = ran(FakeNvml(gpus))
    kinds = [type(message) for message in parent.messages]
    assert kinds == [Hello, Begin, DeviceAnswer, DeviceAnswer, Report]


def test_a_garbage_identity_is_a_failure_of_that_index() -> None:
    """The other device's reading still comes."""
    parent = ran(FakeNvml([FakeGpu(uuid="GPU\x07"), FakeGpu(uuid="GPU-b")]), sweeps=1)
    first, second = (each for each in parent.messages if isinstance(each, DeviceAnswer))
    assert first.failure is not None
    assert "garbage" in first.failure.reason
    assert second.readings


def test_skipped_indexes_are_left_out() -> None:
    """As the parent asks after two hangs."""
    parent = ran(FakeNvml([FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b")]), skip=frozenset({0}))
    answers = [each for each in parent.messages if isinstance(each, DeviceAnswer)]
    assert {answer.index for answer in answers} == {1}


def test_the_parent_may_ask_for_everything() -> None:
    """A ring whose process NVML has not listed yet must not wait for ten seconds."""
    gpu = FakeGpu(processes=())
    for says, expected in ((b"", 1), (FRESH, 3)):
        library = FakeNvml([gpu])
        ran(library, sweeps=3, says=says)
        assert library.calls["device_get_compute_running_processes_v3", 0] == expected


def child(parent: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "apportion.collectors.nvml_child"]
    return subprocess.Popen(
        [*command, "--period-ns=20000000", "--deadline-ns=1000000000", f"--parent={parent}"],
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


def test_it_ends_with_the_end_of_its_input(simulated: Mapping[str, str]) -> None:
    """A parent that was killed closes the pipe; status 0, nothing on standard error."""
    process = child(os.getpid(), simulated)
    assert process.stdout is not None
    assert process.stdout.read(4)
    output, errors = process.communicate(timeout=60)
    assert output
    assert process.returncode == 0
    assert errors == b""


def test_it_ends_where_its_parent_is_gone_already(simulated: Mapping[str, str]) -> None:
    """The parent may die before the child could ask the kernel for its death's signal."""
    process = child(1 if os.getppid() != 1 else 2, simulated)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == b""


def test_it_dies_with_a_parent_that_is_killed(simulated: Mapping[str, str], until: Until) -> None:
    """Even when somebody else holds the pipe's other end open."""
    program = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-m', 'apportion.collectors.nvml_child',"
        " '--period-ns=20000000', '--deadline-ns=1000000000', f'--parent={os.getpid()}']\n"
        "reading, writing = os.pipe()\n"
        "child = subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE,"
        " pass_fds=[writing])\n"
        "child.stdout.read(4)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env=dict(simulated), stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait(timeout=60)
    parent.stdout.close()
    until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    """Neither gone nor a zombie that its new parent has not collected yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123 - one line
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def test_it_imports_nothing_heavy() -> None:
    """Its memory is the price of isolation: numpy or FastAPI would triple it."""
    program = (
        "import sys, apportion.collectors.nvml_child\n"
        "print([m for m in ('numpy', 'fastapi', 'sqlalchemy', 'pydantic', 'psutil', 'asyncio')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


def test_bad_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It is started by the agent only, with all it needs."""
    with pytest.raises(SystemExit):
        main(["--period-ns=fast"])
    assert "--period-ns" in capsys.readouterr().err
