"""Steps by the optimizers' hooks, with a PyTorch of few lines: what is a step, and what is none."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.client.decoded import only, read

from apportion import client
from apportion.client import layout
from apportion.client.directory import candidates
from apportion.client.optimizer_steps import MODULE, optimizer_steps, steps_of

FAKE = """
before, after = [], []
register_optimizer_step_pre_hook = before.append
register_optimizer_step_post_hook = after.append

class Optimizer:
    def __init__(self, state=()):
        self.state = dict(state)
        self.inside = None

    def step(self):
        for hook in before:
            hook(self, (), {})
        if self.inside is not None:
            self.inside()
        for hook in after:
            hook(self, (), {})
"""
"""What PyTorch does with its global hooks."""


@pytest.fixture(autouse=True)
def optimizer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SimpleNamespace]]:
    """Optimizers of a PyTorch that is imported; hooked anew in each test."""
    optimizer_steps.__init__()  # type: ignore[misc] # the one of the process, as new
    module = ModuleType(MODULE)
    exec(FAKE, module.__dict__)
    monkeypatch.setitem(sys.modules, MODULE, module)
    yield module.__dict__["Optimizer"]
    optimizer_steps.stop()  # nothing of it stays this thread's innermost span
    optimizer_steps.__init__()  # type: ignore[misc]


def ended(directory: Path) -> list[tuple[str, int]]:
    """What took time, in order: kinds and step numbers."""
    kinds = {number: name for name, number in layout.KINDS.items()}
    return [
        (kinds[each["kind"]], each["step"])
        for each in only(directory).records
        if each["end_ns"] > each["start_ns"]
    ]


def opened(directory: Path) -> list[int]:
    """Numbers of the steps that are open."""
    return [each["step"] for each in only(directory).open_slots]


def steps(*numbers: int) -> list[tuple[str, int]]:
    """Steps of these numbers."""
    return [("step", number) for number in numbers]


def test_a_step_ends_with_the_optimizers(directory: Path, optimizer: type) -> None:
    """Each one is one; the next is open at once, and at the end there is none that was none."""
    client.torch_steps()
    client.torch_steps()  # hooks are registered once
    adam = optimizer()
    for _ in range(3):
        adam.step()
    assert steps(1, 2, 3) == ended(directory)
    assert [4] == opened(directory)
    optimizer_steps.stop()
    adam.step()
    assert steps(1, 2, 3) == ended(directory)
    assert [] == opened(directory)
    last = only(directory).records[-1]
    assert last["kind"] == layout.KINDS["evaluation"]
    assert last["status"] == layout.STATUSES["cancelled"]
    assert last["start_ns"] == last["end_ns"]
    assert {} == client.counts()


def test_a_block(directory: Path, optimizer: type) -> None:
    """As a context manager it measures what is inside, and goes on where it is entered again."""
    adam = optimizer()
    for _ in range(2):
        with client.torch_steps():
            adam.step()
        adam.step()
    assert steps(1, 2) == ended(directory)


def test_evaluations_and_checkpoints_are_no_part_of_it(directory: Path, optimizer: type) -> None:
    """Which say that they are one: alone, nested in each other, and of another thread."""
    client.torch_steps()
    adam = optimizer()
    with client.evaluation():
        pass
    adam.step()
    with client.evaluation(), client.checkpoint(1):
        assert 1 == len(opened(directory)[1:])
    assert [2] == opened(directory)
    thread = threading.Thread(target=client.checkpoint(1)(gc.collect))
    thread.start()
    thread.join()
    adam.step()
    kinds = [kind for kind, _ in ended(directory)]
    assert ["evaluation", "step", "phase", "evaluation", "checkpoint", "step"] == kinds
    assert steps(1, 2) == [each for each in ended(directory) if each[0] == "step"]
    assert {} == client.counts()


def test_the_step_is_the_current_span(directory: Path, optimizer: type) -> None:
    """So that a loop can say more: tokens, phases."""
    client.torch_steps()
    adam = optimizer()
    adam.step()
    client.current_span().add(tokens=7)
    with client.current_span().phase("forward"):
        pass
    adam.step()
    found = only(directory).records
    assert [layout.ABSENT, 7] == [each["tokens"] for each in found if each["kind"] == 2]


@pytest.mark.parametrize("start", ["entered", "started"])
def test_a_program_with_steps_of_its_own(directory: Path, optimizer: type, start: str) -> None:
    """It knows better: nothing is added, ever."""
    client.torch_steps()
    adam = optimizer()
    for number in (5, 6):
        if start == "entered":
            with client.step(number):
                adam.step()
        else:
            step = client.step(number).start()
            adam.step()
            step.finish()
    adam.step()
    assert steps(5, 6) == ended(directory)


def test_several_optimizers_make_one_step(directory: Path, optimizer: type) -> None:
    """A generator and a discriminator; then one of them alone, when it leads from its second on."""
    client.torch_steps()
    one, two = optimizer(), optimizer()
    for _ in range(3):
        one.step()
        two.step()
    assert steps(1, 2, 3) == ended(directory)
    two.step()
    two.step()
    assert steps(1, 2, 3, 4, 5) == ended(directory)


def test_an_optimizer_inside_another(directory: Path, optimizer: type) -> None:
    """A wrapper's step and the one that it wraps are one."""
    client.torch_steps()
    inner, outer = optimizer(), optimizer()
    outer.inside = inner.step
    for _ in range(3):
        outer.step()
    assert steps(1, 2, 3) == ended(directory)


def test_an_optimizer_that_is_gone(directory: Path, optimizer: type) -> None:
    """That training is over: what comes then is no step, until another one steps."""
    client.torch_steps()
    adam = optimizer()
    adam.step()
    del adam
    gc.collect()
    assert [] == opened(directory)
    second = optimizer()
    second.step()
    assert steps(1, 2) == ended(directory)


def test_another_threads_optimizer(directory: Path, optimizer: type) -> None:
    """Only the thread that trained first has steps."""
    client.torch_steps()
    adam, other = optimizer(), optimizer()
    adam.step()

    def twice() -> None:
        other.step()
        other.step()

    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()
    adam.step()
    assert steps(1, 2) == ended(directory)


def test_a_training_in_a_thread_then_another_one(directory: Path, optimizer: type) -> None:
    """Whose optimizer nobody holds any more leaves no other thread out."""
    client.torch_steps()

    def train() -> None:
        adam = optimizer()
        adam.step()
        adam.step()

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    gc.collect()
    train()
    gc.collect()
    assert steps(1, 2, 3, 4) == ended(directory)
    assert [] == opened(directory)


class Tensor:
    """A count on a device; reading it where that would wait is an error."""

    def __init__(self, value: float, device: str) -> None:
        self.device = SimpleNamespace(type=device)
        self._value = value

    def item(self) -> float:
        assert self.device.type == "cpu", "the program would have waited"
        return self._value


@pytest.mark.parametrize(
    ("state", "steps_before"),
    [
        ({}, 0),
        ({"w": {"step": 7}}, 7),
        ({"w": {"step": Tensor(7.0, "cpu")}}, 7),
        ({"w": {"step": Tensor(7.0, "cuda")}}, None),
        ({"w": {"momentum_buffer": None}}, None),
        ({"w": 3}, None),
    ],
)
def test_numbers_go_on_where_the_optimizer_was(
    directory: Path,
    optimizer: type,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, object],
    steps_before: int | None,
) -> None:
    """Its state says how far it was when it was loaded; where it does not, none is made up."""
    if state:  # restarted or not
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    client.torch_steps()
    adam = optimizer(state)
    assert steps_before == steps_of(adam)
    adam.step()
    adam.step()
    first = layout.ABSENT if steps_before is None else steps_before + 1
    second = layout.ABSENT if steps_before is None else steps_before + 2
    assert steps(first, second) == ended(directory)


@pytest.mark.parametrize("stateful", [True, False])
def test_a_restart_without_a_loaded_state(
    directory: Path, optimizer: type, monkeypatch: pytest.MonkeyPatch, stateful: bool
) -> None:
    """One that keeps a state and had none begins anew; one without any may be anywhere."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    client.torch_steps()
    adam = optimizer()
    numbers: list[int] = []

    def inside() -> None:
        numbers.extend(opened(directory))
        if stateful:
            adam.state["w"] = {"step": 1}

    adam.inside = inside
    adam.step()
    adam.step()
    first, second = (1, 2) if stateful else (layout.ABSENT, layout.ABSENT)
    assert steps(first, second) == ended(directory)
    assert [layout.ABSENT, second] == numbers


def test_what_the_program_says_of_resuming(directory: Path, optimizer: type) -> None:
    """It goes before the optimizer's own count, at the start and in the middle."""
    client.init(directory=directory, resumed_from_step=40)
    client.torch_steps()
    adam = optimizer()
    adam.step()
    client.resumed(20)
    adam.step()
    adam.step()
    assert steps(41, 21, 22) == ended(directory)


def test_without_a_ring(no_directory: Path, optimizer: type) -> None:
    """Nothing is measured, and training goes on."""
    client.torch_steps()
    adam = optimizer()
    adam.step()
    adam.step()
    assert not client.current_span()
    assert {} == client.counts()


def test_an_old_torch(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without global hooks there are no steps, and the program can read why."""
    monkeypatch.setitem(sys.modules, MODULE, ModuleType(MODULE))
    client.torch_steps()
    assert {"torch_too_old": 1} == client.counts()


END = """
import os, sys
from apportion import client
client.torch_steps()
from torch.optim.optimizer import Optimizer
import torch.optim.optimizer
assert type(torch.optim.optimizer.__loader__).__module__.startswith("_frozen"), "its own again"
adam = Optimizer()
adam.step()
if os.fork() == 0:
    adam.step()
    adam.step()
    sys.exit()
os.wait()
adam.step()
if sys.argv[1] == "raise":
    sys.excepthook = lambda *_: None
    raise ValueError
"""


@pytest.mark.parametrize("end", ["return", "raise"])
def test_the_end_of_a_program(tmp_path: Path, end: str) -> None:
    """Imported after us, forked, ended: well, or by an error, in which case its step failed."""
    package = tmp_path / "torch" / "optim"
    package.mkdir(parents=True)
    (package / "optimizer.py").write_text(FAKE)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    rings = tmp_path / "rings"
    rings.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", END, end],
        env={
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
            "APPORTION_RING_DIR": str(rings),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (int(end == "raise"), "") == (done.returncode, done.stderr)
    found = [read(path) for path in sorted(rings.iterdir())]
    statuses = {
        tuple((each["step"], each["status"]) for each in ring.records if each["kind"] == 2)
        for ring in found
    }
    ok, error = layout.STATUSES["ok"], layout.STATUSES["error"]
    failed = ((3, error),) if end == "raise" else ()
    assert {((1, ok), (2, ok)), ((1, ok), (2, ok), *failed)} == statuses
    assert all(ring.header["closed_ns"] and not ring.open_slots for ring in found)


@contextmanager
def files_of_at_most(size_bytes: int) -> Generator[None]:
    """A file cannot grow beyond that: as on a full disk, a ring cannot be reserved."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("state", ["missing", "no directory", "no space"])
def test_where_no_ring_can_be_made(
    tmp_path: Path, optimizer: type, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Nothing is raised, written or left behind, and the disk is asked once, not at each step."""
    asked: list[object] = []

    def looked(*arguments: Any) -> object:
        asked.append(arguments)
        return candidates(*arguments)

    monkeypatch.setattr("apportion.client.session.candidates", looked)
    (tmp_path / "no directory").touch()
    place = tmp_path if state == "no space" else tmp_path / state
    client.init(directory=place)
    client.torch_steps()
    adam = optimizer()
    with files_of_at_most(1 << 20):
        for _ in range(300):
            adam.step()
    assert 1 == len(asked)
    assert ["no directory"] == [path.name for path in tmp_path.iterdir()]
    assert ({"ring_failed": 1} if state == "no space" else {}) == client.counts()


def test_a_ring_that_nobody_reads(directory: Path, optimizer: type) -> None:
    """Without an agent it is full for ever: the oldest go, nothing grows, and nobody waits."""
    client.init(directory=directory, capacity=8)
    client.torch_steps()
    adam = optimizer()
    for _ in range(300):
        adam.step()
    ring = only(directory)
    assert [293, 294, 295, 296, 297, 298, 299, 300] == [each["step"] for each in ring.records]
    assert layout.file_bytes(8) == next(directory.iterdir()).stat().st_size
    assert {} == client.counts()
