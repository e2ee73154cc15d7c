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

from apportion.collectors.collector import Batch, DeviceFailure, FailureKind
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
        collector = NvmlProcess(options, SystemClock(), command=command or None)
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
    assert collector._current is not None
    pipe = collector._current.child._output.fileno()
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


CHILD = """
import sys, time
FAULTY = {faulty}
from apportion.collectors.nvml_child import Outside, Sampling, sample
from apportion.collectors.testing import FakeGpu, FakeNvml
from apportion.core.clock import SystemClock

class Faulty(FakeNvml):
    def device_get_uuid(self, handle):
        if self.gpus.index(handle) in FAULTY:
            {does}
        return super().device_get_uuid(handle)

def send(frame):
    sys.stdout.buffer.write(frame)
    sys.stdout.buffer.flush()

def wait(until_ns):
    time.sleep(max(0, until_ns - time.monotonic_ns()) / 1e9)
    return b""

skip = frozenset(int(each.partition("=")[2]) for each in sys.argv[1:] if each.startswith("--skip"))
gpus = [FakeGpu(uuid="GPU-" + name) for name in "abc"[:{count}]]
sampling = Sampling(20_000_000, 10**9, skip, {count})
sample(Faulty(gpus), SystemClock(), Outside(send, wait), sampling)
"""


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, set[int], str], None]:
    """Makes every child one of `count` GPUs; to touch one of those at the indexes does that."""

    def use(count: int, indexes: set[int], does: str) -> None:
        program = CHILD.replace("{faulty}", repr(indexes)).replace("{does}", does)
        program = program.replace("{count}", str(count))

        def command(self: NvmlProcess, left_out: Mapping[int, DeviceFailure]) -> tuple[str, ...]:
            return (*python(program), *(f"--skip={index}" for index in sorted(left_out)))

        monkeypatch.setattr(NvmlProcess, "_own_command", command)

    return use


Faulty = Callable[[int, set[int], str], None]
HANG = "time.sleep(3600)"
CRASH = "__import__('os').abort()"


@pytest.mark.parametrize(
    ("does", "words"), [(HANG, "has not answered"), (CRASH, "was killed by SIGABRT")]
)
def test_a_gpu_that_stops_the_whole_child_is_left_out(
    make: Make, until: Until, faulty: Faulty, does: str, words: str
) -> None:
    """Its neighbours' readings come back at once, and it is named with its reason."""
    faulty(3, {1}, does)
    collector = make(deadline_ns=200 * MILLISECOND)
    listener = Listener(collector)
    until(lambda: {"GPU-a", "GPU-c"} <= listener().devices())
    until(lambda: any(batch.failures for batch in listener().batches))
    assert listener.devices() == {"GPU-a", "GPU-c"}
    assert collector.restarts == 1
    failures = [failure for batch in listener.batches for failure in batch.failures]
    assert {(failure.index, failure.kind) for failure in failures} == {(1, FailureKind.LEFT_OUT)}
    assert words in failures[-1].reason
    assert "while it was reading GPU 1" in failures[-1].reason


def test_all_devices_hanging_is_a_stalled_source(make: Make, until: Until, faulty: Faulty) -> None:
    """The last device is never left out: reading nothing at all would look like success."""
    faulty(2, {0, 1}, HANG)
    collector = make(deadline_ns=100 * MILLISECOND)
    listener = Listener(collector)
    until(lambda: listener().collector.restarts >= 3)
    assert collector.state is NvmlState.STALLED
    assert "while it was reading GPU 1" in collector.reason
    assert not listener.devices()


@pytest.mark.parametrize("name", ["lost", "hang", "crash", "vanish", "reset-required"])
def test_a_gpu_fails_alone_and_comes_back_by_itself(
    make: Make, simulator: Simulator, until: Until, name: str
) -> None:
    """The others go on, it is named with its reason, and once it is well it is read again."""
    collector = make(deadline_ns=300 * MILLISECOND)
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)
    simulator.fault(name, 1)
    sick = simulator.uuids[1]

    def fails_alone() -> bool:
        listener.forget()
        listener()
        failures = {failure.device for batch in listener.batches for failure in batch.failures}
        return failures == {sick} and listener.devices() == {*simulator.uuids} - {sick}

    until(fails_alone)
    simulator.clear()

    def is_back() -> bool:
        listener.forget()
        listener()
        return sick in listener.devices() and collector.state is NvmlState.OK

    until(is_back)
    listener.forget()
    until(lambda: len(listener().devices()) == 3)
    assert not [failure for batch in listener.batches for failure in batch.failures]


def test_a_gpu_that_was_gone_when_the_child_started(
    make: Make, simulator: Simulator, until: Until
) -> None:
    """A GPU that is known is missed though NVML lists none such; another index is no other GPU."""
    collector = make()
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)
    simulator.fault("vanish", 0)
    assert collector.pid is not None
    os.kill(collector.pid, signal.SIGKILL)
    until(lambda: bool(listener().errors))
    listener.forget()
    until(lambda: any(batch.failures for batch in listener().batches))
    failures = {f.device: f.kind for batch in listener.batches for f in batch.failures}
    assert failures == {simulator.uuids[0]: FailureKind.VANISHED}
    assert listener.devices() == {*simulator.uuids[1:]}
    simulator.clear()
    listener.forget()
    until(lambda: simulator.uuids[0] in listener().devices())


def test_an_upgraded_driver_is_explained(make: Make, simulator: Simulator, until: Until) -> None:
    """In words that say what to do; a new process then loads the new library."""
    collector = make()
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)
    simulator.fault("driver-reload")
    until(lambda: bool(listener().errors))
    assert "the driver was upgraded; reload it or reboot" in str(listener.errors[0])
    listener.forget()
    until(lambda: len(listener().devices()) == 3 and collector.state is NvmlState.OK)


def test_all_of_nvml_is_forbidden(make: Make, simulator: Simulator, until: Until) -> None:
    """As where a container's rights were taken away: the word is that of its GPUs."""
    listener = Listener(make())
    until(lambda: len(listener().devices()) == 3)
    simulator.fault("no-permission")
    until(lambda: any(error.kind == FailureKind.FORBIDDEN for error in listener().errors))


def test_all_of_nvml_hangs_and_goes_on(make: Make, simulator: Simulator, until: Until) -> None:
    """Nothing is read meanwhile; when calls return, readings come again of all devices."""
    collector = make(deadline_ns=200 * MILLISECOND)
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)
    simulator.fault("hang")
    until(lambda: collector.state is NvmlState.STALLED or bool(listener().errors))
    simulator.clear()
    listener.forget()
    until(lambda: len(listener().devices()) == 3 and collector.state is NvmlState.OK)


def test_xids_are_counted_and_outlive_their_gpu(
    make: Make, simulator: Simulator, until: Until
) -> None:
    """The commonest one means that the GPU is gone: its series must not go with it."""
    collector = make()
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)

    def told() -> dict[tuple[str, ...], float]:
        listener()
        return {
            (name, *(text for _, text in labels)): value
            for name, value, labels in collector.lasting_samples
        }

    # The thread that listens may not have registered yet: what came before that is lost.
    until(lambda: _sent(simulator) and _xid(simulator, 31) in told())
    assert _xid(simulator, 79) not in told()
    simulator.xid(2, 79)
    simulator.xid(2, 79)
    simulator.fault("lost", 2)
    until(lambda: told().get(_xid(simulator, 79)) == 2)
    last = told()["device_xid_last_timestamp_seconds", simulator.uuids[2], "79"]
    assert abs(last - SystemClock().realtime_ns() / 1e9) < 60


TWO = """
import sys, time
from apportion.collectors.collector import DeviceFailure
from apportion.collectors.nvml_frames import encode
from apportion.collectors.nvml_messages import Begin, DeviceAnswer, End, Happened, Hello
from apportion.core.reading import Reading

tries = {tries}
said = [Hello("580", (0, 1), 2)]
for number in range(1, 1_000):
    said += [Begin(number), DeviceAnswer(0, (Reading("GPU-a", number),), gpu="GPU-a")]
    if number == 1 or tries:
        said += [DeviceAnswer(1, (Reading("GPU-b", number),), gpu="GPU-b")]
    else:
        said += [DeviceAnswer(1, failure=DeviceFailure("GPU-b", 1, "lost"))]
    happened = [Happened("GPU-a", "xid", 100, 31), *([Happened("GPU-a", "xid", 300, 48)] * tries)]
    said += [*(happened if number == 2 else ()), End(number, 0, 0, 200)]
    sys.stdout.buffer.write(b"".join(map(encode, said)))
    sys.stdout.buffer.flush()
    said = []
    time.sleep(0.02)
"""


def test_an_event_is_told_by_one_child_when_another_takes_over(
    make: Make, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both listen for a while: what the old one had not told yet is not lost, nor told twice."""

    def command(_self: NvmlProcess, left_out: object) -> tuple[str, ...]:
        return python(TWO.replace("{tries}", str(not isinstance(left_out, dict))))

    monkeypatch.setattr(NvmlProcess, "_own_command", command)
    collector = make()
    listener = Listener(collector)
    until(lambda: any(batch.failures for batch in listener().batches))
    until(lambda: "48" in _xids(listener()))
    assert collector.restarts == 1
    assert _xids(listener) == {"31": 1, "48": 1}


def _xids(listener: Listener) -> dict[str, float]:
    return {
        dict(labels)["xid"]: value
        for name, value, labels in listener.collector.lasting_samples
        if name == "device_xid_errors_total"
    }


def _sent(simulator: Simulator) -> bool:
    simulator.xid(2, 31)
    return True


def _xid(simulator: Simulator, number: int) -> tuple[str, str, str]:
    return ("device_xid_errors_total", simulator.uuids[2], str(number))


def test_a_process_that_is_waited_for_is_found_at_once(
    make: Make, simulator: Simulator, until: Until
) -> None:
    """Lists of processes are read rarely, but not while somebody's ring has no device."""
    collector = make()
    listener = Listener(collector)
    until(lambda: len(listener().devices()) == 3)
    collector.set_pids([os.getpid()])
    simulator.set_processes(1, [ProcessLoad(os.getpid(), 1_000)])

    def holders() -> set[DeviceId]:
        return {
            reading.device
            for batch in listener().batches
            for reading in batch.readings
            for process in reading.processes or ()
            if process.pid == os.getpid()
        }

    until(lambda: holders() == {simulator.uuids[1]})


def test_a_child_without_devices_is_a_failed_source(make: Make, until: Until) -> None:
    """No device to read is no success either."""
    listener = Listener(
        make(
            *python(
                "import sys\n"
                "from apportion.collectors.nvml_frames import encode\n"
                "from apportion.collectors.nvml_messages import Hello\n"
                "sys.stdout.buffer.write(encode(Hello('580.95.05', (), 1)))\n"
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
