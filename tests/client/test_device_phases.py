"""Phases by a device's own clock, with a CUDA of few lines whose queue is real.

The host launches and goes on; the device does one piece of work after another. All times are those
of one clock that only the test moves.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.client.decoded import only

from apportion import client
from apportion.client import device_phases as module
from apportion.client import layout, lifetime, phase, training
from apportion.client.device_phases import DevicePhases
from apportion.client.surroundings import surroundings
from apportion.core.category import Phase, PhaseClock
from apportion.cost.settlement.phases import PhaseSlice, phase_durations

MS = 1_000_000
LAUNCH_NS = 10_000
"""What the host needs for a launch; the device works for milliseconds."""
NAMES = {number: name for name, number in layout.PHASES.items()}
FORWARD, BACKWARD, OPTIMIZER = 30 * MS, 60 * MS, 10 * MS
STEP = FORWARD + BACKWARD + OPTIMIZER


class Cuda:
    """A device with one stream. An event that it has not passed says no time, as in CUDA."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * MS
        self.free_ns = 0
        """When the device has done all that was launched."""
        self.rate = 1.0
        """Of the device's clock, by the host's."""
        self.made = 0
        self.capturing = False
        self.error: Exception | None = None

    def monotonic_ns(self) -> int:
        return self.now_ns

    def launch(self, work_ns: int) -> None:
        self.now_ns += LAUNCH_NS
        self.free_ns = max(self.free_ns, self.now_ns) + work_ns

    def wait(self) -> None:
        """As `loss.item()` does."""
        self.now_ns = max(self.now_ns, self.free_ns)

    # -- what PyTorch has -------------------------------------------------------------------
    def is_initialized(self) -> bool:
        return True

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(uuid="0")

    def Event(self, *, enable_timing: bool) -> Event:  # noqa: N802 - PyTorch's name
        assert enable_timing
        self.made += 1
        return Event(self)


class Event:
    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._at_ns = 0

    def record(self) -> None:
        assert not self._cuda.capturing
        if self._cuda.error is not None:
            raise self._cuda.error
        self._at_ns = max(self._cuda.free_ns, self._cuda.now_ns)

    def query(self) -> bool:
        assert not self._cuda.capturing, "that would have spoilt the capture"
        return self._at_ns <= self._cuda.now_ns

    def elapsed_time(self, later: Event) -> float:
        assert self.query(), "an error in CUDA: not passed yet"
        assert later.query()
        return (later._at_ns - self._at_ns) * self._cuda.rate / MS


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """The device, and every clock of the client set to it."""
    made = Cuda()
    torch = ModuleType("torch")
    torch.__dict__["cuda"] = made
    monkeypatch.setitem(sys.modules, "torch", torch)
    for each in (module, lifetime, phase, training):
        monkeypatch.setattr(each, "monotonic_ns", made.monotonic_ns)
    monkeypatch.setattr(surroundings, "modules", 0)
    module.device_phases.forget()
    with client.step(0):  # CUDA is seen
        pass
    return made


def train(cuda: Cuda, number: int, after: Callable[[], object], data_ns: int = 0) -> None:
    """A step as trainers write it: three phases, each a launch."""
    with client.step(number) as step:
        cuda.now_ns += data_ns
        for name, work_ns in (
            ("forward", FORWARD),
            ("backward", BACKWARD),
            ("optimizer", OPTIMIZER),
        ):
            with step.phase(name):
                cuda.launch(work_ns)
        after()


def phases(directory: Path, clock: int) -> dict[int, Counter[str]]:
    """Nanoseconds of each phase by the number of its step."""
    records = only(directory).records
    steps = {one["number"]: one["step"] for one in records if one["kind"] == layout.KINDS["step"]}
    found: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for one in records:
        if one["kind"] == layout.KINDS["phase"] and one["clock"] == clock:
            found[steps[one["parent"]]][NAMES[one["phase"]]] += one["end_ns"] - one["start_ns"]
    return found


def test_the_hosts_clock_would_have_lied(directory: Path, cuda: Cuda) -> None:
    """The host needs as long for each phase; the device 3:6:1, and the cost is divided so."""
    train(cuda, 1, cuda.wait)
    host = phases(directory, layout.CLOCK_HOST_LAUNCH)[1]
    assert host == {"forward": LAUNCH_NS, "backward": LAUNCH_NS, "optimizer": LAUNCH_NS}
    # the first launch leaves its time to its phase, in which the device had nothing to do
    assert phases(directory, layout.CLOCK_DEVICE)[1] == {
        "forward": LAUNCH_NS + FORWARD,
        "backward": BACKWARD,
        "optimizer": OPTIMIZER,
    }

    records = only(directory).records
    root = records[-1]
    slices = [
        PhaseSlice(Phase(one["phase"]), one["start_ns"], one["end_ns"], one["number"],
                   PhaseClock(one["clock"]))
        for one in records
        if one["parent"] == root["number"]
    ]  # fmt: skip
    divided = dict(phase_durations(root["start_ns"], root["end_ns"], 0, slices))
    assert divided == {
        Phase.FORWARD: LAUNCH_NS + FORWARD,
        Phase.BACKWARD: BACKWARD,
        Phase.OPTIMIZER: OPTIMIZER,
    }
    launches = [one._replace(clock=PhaseClock.HOST) for one in slices[:3]]
    lie = dict(phase_durations(root["start_ns"], root["end_ns"], 0, launches))
    assert lie[Phase.NONE] > 0.99 * STEP, "99 % of the step would have been no phase's"


def test_a_host_that_runs_ahead(directory: Path, cuda: Cuda) -> None:
    """Each window has what the device did in it, whoever launched it; together they have all."""
    steps = 6
    for number in range(1, steps + 1):
        train(cuda, number, lambda: None, data_ns=40 * MS)
    with client.step(steps + 1):
        cuda.wait()
    found = phases(directory, layout.CLOCK_DEVICE)
    records = only(directory).records
    windows = {
        one["step"]: one["end_ns"] - one["start_ns"]
        for one in records
        if one["kind"] == layout.KINDS["step"]
    }
    for number, mine in found.items():
        assert sum(mine.values()) <= windows[number]
    assert sum(found[2].values()) == windows[2], "the device was busy all the time"
    whole = sum(found.values(), Counter[str]())
    assert whole == {
        "forward": LAUNCH_NS + steps * FORWARD,
        "backward": steps * BACKWARD,
        "optimizer": steps * OPTIMIZER,
    }
    assert {} == client.counts()


def test_the_inner_phase_has_its_time(directory: Path, cuda: Cuda) -> None:
    """A phase of a phase has a higher number on the device, too: where both are, it wins."""
    with client.step(1) as step:
        with step.phase("backward") as outer:
            cuda.launch(BACKWARD)
            with outer.phase("communication"):
                cuda.launch(FORWARD)
        cuda.wait()
    device = [one for one in only(directory).records if one["clock"] == layout.CLOCK_DEVICE]
    numbers = {NAMES[one["phase"]]: one["number"] for one in device}
    assert numbers["communication"] > numbers["backward"]
    lengths = phases(directory, layout.CLOCK_DEVICE)[1]
    assert lengths["communication"] == FORWARD
    assert lengths["backward"] == LAUNCH_NS + BACKWARD + FORWARD


@pytest.mark.parametrize("rate", [0.99, 1.01])
def test_a_device_whose_clock_drifts(directory: Path, cuda: Cuda, rate: float) -> None:
    """However wrong it is, no phase leaves its step: nothing is passed before it was launched."""
    cuda.rate = rate
    for number in range(1, 9):
        train(cuda, number, cuda.wait)
    found = phases(directory, layout.CLOCK_DEVICE)
    for number in range(1, 9):
        # a step's length is that of its work, and each step begins with an idle device
        assert found[number].total() == pytest.approx(STEP, rel=0.011)
        assert found[number]["backward"] == pytest.approx(BACKWARD, rel=0.011)


def test_events_are_used_again(directory: Path, cuda: Cuda) -> None:
    """As many as are in the queue, and one; not six a step."""
    for number in range(1, 50):
        train(cuda, number, cuda.wait)
    assert cuda.made <= 7


def test_a_device_that_never_comes_back(
    directory: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is bounded here, and steps go on."""
    monkeypatch.setattr(module, "MOST_PENDING", 10)
    cuda.free_ns = 1 << 60
    for number in range(1, 20):
        train(cuda, number, lambda: None)
    assert len(module.device_phases.pending) == 10
    assert cuda.made == 20
    assert {} == phases(directory, layout.CLOCK_DEVICE)


def test_while_a_graph_is_captured(directory: Path, cuda: Cuda) -> None:
    """Nothing is recorded or asked: either would spoil it."""
    train(cuda, 1, cuda.wait)
    cuda.capturing = True
    train(cuda, 2, cuda.wait)
    cuda.capturing = False
    train(cuda, 3, cuda.wait)
    assert {1, 3} == set(phases(directory, layout.CLOCK_DEVICE))
    assert {} == client.counts()


def test_a_phase_that_nobody_ends(directory: Path, cuda: Cuda) -> None:
    """With its step it is over, and it does not take the time of the next ones."""
    with client.step(1) as step:
        step.phase("forward").start()
        cuda.launch(FORWARD)
        cuda.wait()
    train(cuda, 2, cuda.wait)
    assert {2} == set(phases(directory, layout.CLOCK_DEVICE))
    assert not module.device_phases.pending


def test_a_cuda_that_fails(directory: Path, cuda: Cuda) -> None:
    """Counted once; the phases keep the host's clock, and nothing is raised."""
    cuda.error = RuntimeError("an illegal memory access was encountered")
    for number in range(1, 4):
        train(cuda, number, cuda.wait)
    assert {"events_failed": 1} == client.counts()
    assert {} == phases(directory, layout.CLOCK_DEVICE)
    assert {1, 2, 3} == set(phases(directory, layout.CLOCK_HOST_LAUNCH))


def test_an_event_that_cannot_be_asked(
    directory: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the program has changed its device in between."""

    def fail(*_: object) -> Any:
        raise RuntimeError("invalid device ordinal")

    monkeypatch.setattr(Event, "elapsed_time", fail)
    for number in range(1, 4):
        train(cuda, number, cuda.wait)
    assert {"events_failed": 1} == client.counts()
    assert {} == phases(directory, layout.CLOCK_DEVICE)


def test_another_threads_stream() -> None:
    """Events of one thread's stream say nothing of another's: its steps write none."""
    other = DevicePhases()
    other._thread = 1
    other.pending = [SimpleNamespace()]  # type: ignore[list-item] # which nobody looks at
    step: Any = SimpleNamespace()
    other.write(step, step)
    assert None is other.begin(0, 1)
