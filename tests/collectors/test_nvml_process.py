"""The NVML child from its parent's side: with the simulator, without a library, and broken."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import sys
import termios
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from apportion.collectors.collector import Batch
from apportion.collectors.nvml_messages import NvmlState
from apportion.collectors.nvml_process import NvmlProcess
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import SystemClock
from apportion.core.errors import CollectorError, NoData, SourceLost
from apportion.core.ids import DeviceId
from apportion.simulator import ProcessLoad, Simulator

Until = Callable[[Callable[[], bool]], None]
MILLISECOND = 10**6
Make = Callable[..., NvmlProcess]


@pytest.fixture
def make(simulated: Mapping[str, str]) -> Iterator[Make]:
    """Collectors at 50 Hz with short deadlines, closed at the end."""
    made: list[NvmlProcess] = []

    def start(
        *command: str,
        environment: Mapping[str, str] = simulated,
        deadline_ns: int = 1_000 * MILLISECOND,
        connect_deadline_ns: int = 60_000 * MILLISECOND,
    ) -> NvmlProcess:
        options = CollectorOptions(
            period_ns=20 * MILLISECOND,
            deadline_ns=deadline_ns,
            connect_deadline_ns=connect_deadline_ns,
            environment=environment,
        )
        collector = NvmlProcess(
            options,
            SystemClock(),
            command=command or None,
            first_backoff_ns=5 * MILLISECOND,
            longest_backoff_ns=50 * MILLISECOND,
        )
        made.append(collector)
        collector.start()
        return collector

    yield start
    for collector in made:
        collector.close()


class Listener:
    """Collects again and again, keeping everything, errors included."""

    def __init__(self, collector: NvmlProcess) -> None:
        self.collector = collector
        self.batches: list[Batch] = []
        self.errors: list[CollectorError] = []

    def __call__(self) -> Listener:
        try:
            self.batches.append(self.collector.collect())
        except CollectorError as error:
            self.errors.append(error)
        return self

    def devices(self) -> set[DeviceId]:
        return {reading.device for batch in self.batches for reading in batch.readings}

    def forget(self) -> None:
        self.batches.clear()
        self.errors.clear()


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def test_readings_of_all_devices_arrive(make: Make, simulator: Simulator, until: Until) -> None:
    """The whole way: C library, nvidia-ml-py, child, pipe, parent."""
    simulator.set_processes(1, [ProcessLoad(pid=os.getpid(), used_bytes=1 << 30)])
    listener = Listener(make())
    until(lambda: len(listener().devices()) == 3 and len(listener.batches) > 20)
    until(lambda: listener().collector.state is NvmlState.OK)
    infos = [info for batch in listener.batches for info in batch.devices]
    assert [info.device for info in infos] == list(simulator.uuids)
    assert all(info.simulated and info.name == "NVIDIA H100 80GB HBM3" for info in infos)
    for uuid in simulator.uuids:
        readings = [
            reading
            for batch in listener.batches
            for reading in batch.readings
            if reading.device == uuid
        ]
        energies = [reading.energy_mj for reading in readings if reading.energy_mj is not None]
        times = [reading.time_ns for reading in readings]
        assert len(energies) == len(readings)
        assert energies == sorted(energies)
        assert times == sorted(set(times))
        assert readings[-1].power_mw is not None
        assert readings[-1].nvlink_tx_bytes is not None
        assert readings[-1].pcie_tx_bytes is not None
    holders = [
        process
        for batch in listener.batches
        for reading in batch.readings
        if reading.device == simulator.uuids[1]
        for process in reading.processes or ()
    ]
    assert holders
    assert {(holder.pid, holder.memory_bytes) for holder in holders} == {(os.getpid(), 1 << 30)}


def test_several_readings_of_a_device_in_one_batch(make: Make, until: Until) -> None:
    """A parent that looks rarely loses nothing."""
    collector = make()
    listener = Listener(collector)
    until(lambda: bool(listener().devices()))
    assert collector._child is not None
    pipe = collector._child._output.fileno()
    until(lambda: _waiting_bytes(pipe) > 10_000)
    per_device = Counter(reading.device for reading in collector.collect().readings)
    assert min(per_device.values()) > 1
    assert collector.restarts == 0


def _waiting_bytes(descriptor: int) -> int:
    """What a pipe holds that nobody has read."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def test_a_killed_child_is_replaced(make: Make, until: Until) -> None:
    """As after a crash inside the driver's library."""
    collector = make()
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)
    first = collector.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: bool(listener().errors))
    assert "was killed by SIGKILL" in str(listener.errors[0])
    assert isinstance(listener.errors[0], SourceLost)
    listener.forget()
    until(lambda: len(listener().devices()) == 3 and collector.state is NvmlState.OK)
    assert collector.pid != first
    assert collector.restarts >= 1
    assert collector.reason == ""


def test_a_stopped_child_is_abandoned_at_its_deadline(make: Make, until: Until) -> None:
    """A driver call that hangs looks like this from outside."""
    collector = make(deadline_ns=300 * MILLISECOND)
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)
    stopped = collector.pid
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: bool(listener().errors))
    assert "has not answered for" in str(listener.errors[0])
    listener.forget()
    until(lambda: len(listener().devices()) == 3 and collector.state is NvmlState.OK)
    assert collector.pid != stopped
    until(lambda: not listener().collector.undead_pids)


def test_no_library_says_what_was_looked_for(make: Make, tmp_path: Path, until: Until) -> None:
    """The commonest misconfiguration of a container; not a fault, so not an alert."""
    bare = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    # The dynamic loader takes this file for the library and cannot load it.
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    listener = Listener(make(environment={**bare, "LD_LIBRARY_PATH": str(tmp_path)}))
    until(lambda: bool(listener().errors))
    assert isinstance(listener.errors[0], NoData)
    assert listener.collector.state is NvmlState.NO_LIBRARY
    assert "libnvidia-ml.so.1" in listener.collector.reason
    until(lambda: listener().collector.restarts >= 2)
    assert listener.collector.state is NvmlState.NO_LIBRARY
    assert not listener.devices()


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("print('NVML says hello')", "announced"),
        ("import sys; sys.stdout.buffer.write(bytes([2,0,0,0]) + b'{}'); input()", "no valid"),
        ("import sys; sys.stdout.buffer.write(bytes([9,0,0,0])); sys.exit(7)", "status 7"),
        ("raise RuntimeError('inside the child')", "inside the child"),
    ],
)
def test_nonsense_is_not_accepted(make: Make, until: Until, program: str, sentence: str) -> None:
    """The child is replaced, with backoff, and the reason names what it did."""
    flushing = f"{program}\nimport sys; sys.stdout.flush()"
    listener = Listener(make(*python(flushing)))
    until(lambda: len(listener().errors) > 3 and listener.collector.restarts >= 2)
    assert any(sentence in str(error) for error in listener.errors)
    assert listener.collector.state is NvmlState.FAILED
    assert not listener.devices()


def test_a_child_that_never_opens_nvml_is_stalled(make: Make, until: Until) -> None:
    """nvmlInit hangs on some drivers."""
    collector = make(
        *python("import time; time.sleep(3600)"), connect_deadline_ns=200 * MILLISECOND
    )
    listener = Listener(collector)
    until(lambda: bool(listener().errors))
    assert collector.state is NvmlState.STALLED


def test_a_command_that_cannot_be_started(make: Make, until: Until) -> None:
    """No interpreter, no memory: a reason, not a crash."""
    listener = Listener(make("/no-such-interpreter"))
    until(lambda: bool(listener().errors))
    assert "could not be started" in str(listener.errors[0])


HANGS = """
import sys, time
HANGING = {hanging}
from apportion.collectors.nvml_child import Outside, main, sample
from apportion.collectors.testing import FakeGpu, FakeNvml
from apportion.core.clock import SystemClock

class Hanging(FakeNvml):
    def device_get_uuid(self, handle):
        if self.gpus.index(handle) in HANGING:
            time.sleep(3600)
        return super().device_get_uuid(handle)

def send(frame):
    sys.stdout.buffer.write(frame)
    sys.stdout.buffer.flush()

def lives(until_ns):
    time.sleep(max(0, until_ns - time.monotonic_ns()) / 1e9)
    return True

skip = frozenset(int(each.partition("=")[2]) for each in sys.argv[1:] if each.startswith("--skip"))
gpus = [FakeGpu(uuid="GPU-" + name) for name in "abc"[:{count}]]
sample(Hanging(gpus), SystemClock(), Outside(send, lives), period_ns=20_000_000, skip=skip)
"""


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, set[int]], None]:
    """Makes every child one of `count` devices, of which those at the given indexes hang."""

    def use(count: int, indexes: set[int]) -> None:
        program = HANGS.replace("{hanging}", repr(indexes)).replace("{count}", str(count))

        def command(self: NvmlProcess) -> tuple[str, ...]:
            skip = tuple(f"--skip={index}" for index in sorted(self._skipped))
            return (*python(program), *skip)

        monkeypatch.setattr(NvmlProcess, "_own_command", command)

    return use


def test_a_device_that_hangs_twice_is_left_out(
    make: Make, until: Until, hanging: Callable[[int, set[int]], None]
) -> None:
    """Its neighbours' readings come back, and it is named with its reason."""
    hanging(3, {1})
    collector = make(deadline_ns=200 * MILLISECOND)
    listener = Listener(collector)
    until(lambda: {"GPU-a", "GPU-c"} <= listener().devices())
    until(lambda: any(batch.failures for batch in listener().batches))
    assert listener.devices() == {"GPU-a", "GPU-c"}
    assert collector.restarts >= 2
    assert any("while it was reading GPU 1" in str(error) for error in listener.errors)
    failures = [failure for batch in listener.batches for failure in batch.failures]
    assert {failure.index for failure in failures} == {1}
    assert "has not answered" in failures[-1].reason


def test_all_devices_hanging_is_a_stalled_source(
    make: Make, until: Until, hanging: Callable[[int, set[int]], None]
) -> None:
    """The last device is never left out: reading nothing at all would look like success."""
    hanging(2, {0, 1})
    collector = make(deadline_ns=100 * MILLISECOND)
    listener = Listener(collector)
    until(lambda: listener().collector.restarts >= 4)
    assert collector.state is NvmlState.STALLED
    assert "while it was reading GPU 1" in collector.reason
    assert not listener.devices()


def test_a_child_without_devices_is_a_failed_source(make: Make, until: Until) -> None:
    """No device to read is no success either."""
    listener = Listener(
        make(
            *python(
                "import sys\n"
                "from apportion.collectors.nvml_frames import encode\n"
                "from apportion.collectors.nvml_messages import Hello\n"
                "sys.stdout.buffer.write(encode(Hello('580.95.05', ())))\n"
                "sys.stdout.flush()\n"
                "input()\n"
            )
        )
    )
    until(lambda: bool(listener().errors))
    assert listener.collector.state is NvmlState.FAILED
    assert "every GPU is left out" in listener.collector.reason


def test_close_lets_go_and_start_begins_again(make: Make, until: Until) -> None:
    """The GPUs can be reset in between."""
    collector = make()
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)
    pid = collector.pid
    collector.close()
    collector.close()
    assert collector.pid is None
    assert not Path(f"/proc/{pid}").exists()
    assert collector.collect() == Batch()
    assert collector.pid is None
    listener.forget()
    collector.start()
    until(lambda: len(listener().devices()) == 3)
