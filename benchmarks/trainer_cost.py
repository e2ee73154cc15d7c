"""What the client costs a PyTorch trainer: the same training with it and without, in turn.

One process trains one model. In each round every way of measuring has its turn, in random order:
without the client (its hooks are taken out of PyTorch), with the optimizers' hooks, with
`client.step()` and phases. A turn is one step that is not timed and a few that are. The figure is
the median over rounds of the difference to the round's own turn without, with the interval that
holds 95 % of its bootstrap. CPU time is the training thread's; neighbours on the machine disturb it
less than the wall clock, which is given beside it. PyTorch computes in that thread alone.

A difference of two large times is noisy where others use the machine. So the hooks are also timed
where they are, between PyTorch's own work with the caches that it leaves: the median over steps,
and what part of a step's CPU time that is (its wall time is longer where it waits for a core).

Then the hooks by themselves: their CPU time for a step where all is well, where the ring is so
small that it is always full, and where there is none.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apportion import client

EXAMPLES = Path(__file__).parents[1] / "examples"
HOOK_ROUNDS, HOOK_STEPS = 100, 1_000
RESAMPLES = 2_000
SMALL_CAPACITY = 16
NO_SPACE_BYTES = 1 << 20


class Size(NamedTuple):
    """A model, its batch, and how often it is measured."""

    layers: int
    width: int
    sequences: int
    tokens: int
    rounds: int
    steps: int


SIZES = {
    "the example": Size(5, 128, 4, 64, 60, 4),
    "steps of a millisecond": Size(1, 32, 1, 16, 150, 20),
}


def run() -> dict[str, object]:
    if find_spec("torch") is None:
        return {"left out": "PyTorch is not installed (requirements/torch.txt)"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.trainer_cost"],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *filter(None, sys.path)]),
        },
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


class Training:
    """One model in training; each way of measuring goes on where the last one was."""

    def __init__(self, size: Size) -> None:
        torch: Any = importlib.import_module("torch")  # only the measuring process has them
        gpt: Any = importlib.import_module("gpt")
        torch.manual_seed(1)
        shape = gpt.Shape(layers=size.layers, width=size.width, context=size.tokens)
        self._model = gpt.Gpt(shape)
        self.optimizer = torch.optim.AdamW(self._model.parameters())
        self._batch = torch.randint(shape.vocabulary, (size.sequences, size.tokens + 1))
        self._tokens = size.sequences * size.tokens
        self._number = 0

    def step(self) -> None:
        self._model.loss(self._batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step_with_phases(self) -> None:
        self._number += 1
        with client.step(self._number) as step:
            with step.phase("forward"):
                loss = self._model.loss(self._batch)
            with step.phase("backward"):
                loss.backward()
            with step.phase("optimizer"):
                self.optimizer.step()
                self.optimizer.zero_grad()
            step.add(tokens=self._tokens)


class Hooks:
    """The client's among PyTorch's hooks for all optimizers, which can be taken out."""

    def __init__(self) -> None:
        module: Any = importlib.import_module("torch.optim.optimizer")
        client.torch_steps()
        # There is no public way to have a hook, and not to have it, and to have it again.
        self._places: list[dict[int, Any]] = [
            module._global_optimizer_pre_hooks,  # noqa: SLF001 - as said
            module._global_optimizer_post_hooks,  # noqa: SLF001 - as said
        ]
        self._hooks = [dict(place) for place in self._places]
        self._take_out()

    def _take_out(self) -> None:
        for place in self._places:
            place.clear()

    @contextmanager
    def __call__(self) -> Generator[None]:
        with self._in_place(self._hooks):
            yield

    @contextmanager
    def timed(self, took_ns: list[int]) -> Generator[None]:
        """The same, with how long both hooks of each step took by the wall clock."""

        def before(*arguments: Any) -> None:
            begin_ns = perf_counter_ns()
            hook_before(*arguments)
            took_ns.append(perf_counter_ns() - begin_ns)

        def after(*arguments: Any) -> None:
            begin_ns = perf_counter_ns()
            hook_after(*arguments)
            took_ns[-1] += perf_counter_ns() - begin_ns

        (first, hook_before), (second, hook_after) = (
            next(iter(hooks.items())) for hooks in self._hooks
        )
        with self._in_place([{first: before}, {second: after}]):
            yield

    @contextmanager
    def _in_place(self, hooks: Sequence[dict[int, Any]]) -> Generator[None]:
        for place, mine in zip(self._places, hooks, strict=True):
            place.update(mine)
        with client.torch_steps():
            yield
        self._take_out()

    def ns(self, optimizer: object, steps: int) -> float:
        """CPU time of the hooks alone, for one step."""
        before, after = (tuple(hooks.values()) for hooks in self._hooks)
        begin = thread_time_ns()
        for _ in range(steps):
            for hook in before:
                hook(optimizer, (), {})
            for hook in after:
                hook(optimizer, (), {})
        return (thread_time_ns() - begin) / steps


@contextmanager
def nothing() -> Generator[None]:
    yield


def turn(step: Callable[[], None], steps: int) -> tuple[float, float]:
    """CPU and wall nanoseconds for one step, after one that is not timed."""
    step()
    cpu_ns, wall_ns = thread_time_ns(), perf_counter_ns()
    for _ in range(steps):
        step()
    return (thread_time_ns() - cpu_ns) / steps, (perf_counter_ns() - wall_ns) / steps


def training(size: Size, hooks: Hooks) -> dict[str, object]:
    work = Training(size)
    took_ns: list[int] = []
    ways: dict[str, tuple[Callable[[], Any], Callable[[], None]]] = {
        "without": (nothing, work.step),
        "hooks": (hooks, work.step),
        "client.step(), 3 phases": (nothing, work.step_with_phases),
        "timed": (partial(hooks.timed, took_ns), work.step),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    order, source = list(ways), random.Random(1)
    for _ in range(size.rounds + 5):
        source.shuffle(order)
        for name in order:
            around, step = ways[name]
            with around():
                times[name].append(turn(step, size.steps))
    clocks = {name: np.array(found[5:]).T for name, found in times.items()}
    without, timed = clocks.pop("without"), clocks.pop("timed")
    in_place = np.array(took_ns[5 * (size.steps + 1) :], np.float64)
    part, low, high = interval(100 * in_place / np.median(timed[0]))
    result: dict[str, object] = {
        "ms of CPU a step": float(np.median(without[0])) / 1e6,
        "rounds": size.rounds,
        "steps in a turn": size.steps,
        "hooks, us in place": float(np.median(in_place)) / 1e3,
        "hooks, % of a step's CPU in place": part,
        "hooks, 95 % of it in place, %": f"{low:.4f} to {high:.4f}",
    }
    for name, found in clocks.items():
        for clock, mine, theirs in zip(("CPU", "wall"), found, without, strict=True):
            middle, low, high = interval(100 * (mine - theirs) / np.median(theirs))
            result[f"{name}, slower by % of {clock}"] = middle
            result[f"{name}, 95 % of it, % of {clock}"] = f"{low:+.3f} to {high:+.3f}"
    return result


def interval(found: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median, and the interval that holds 95 % of its bootstrap."""
    source = np.random.default_rng(1)
    medians = [np.median(source.choice(found, found.size)) for _ in range(RESAMPLES)]
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(found)), float(low), float(high)


def hook_ns(hooks: Hooks, directory: Path) -> dict[str, float]:
    """Nanoseconds of CPU a step, by what is there to write into."""
    optimizer = Training(SIZES["steps of a millisecond"]).optimizer
    inside = directory / "states"
    inside.mkdir()
    (inside / "file").touch()
    where: dict[str, tuple[Path, int]] = {
        "a ring": (inside, 32_768),
        "a ring that is always full": (inside, SMALL_CAPACITY),
        "no directory": (inside / "missing", 32_768),
        "a directory that is none": (inside / "file", 32_768),
        "no space": (inside, 32_768),
    }
    times: dict[str, list[float]] = {name: [] for name in where}
    for _ in range(HOOK_ROUNDS):
        for name, (place, capacity) in where.items():
            with limited(NO_SPACE_BYTES if name == "no space" else None):
                client.init(workload="bench", directory=place, capacity=capacity)
                with client.torch_steps():
                    hooks.ns(optimizer, HOOK_STEPS // 10)
                    times[name].append(hooks.ns(optimizer, HOOK_STEPS))
        for ring in inside.glob("*.ring"):
            ring.unlink()
    return {name: statistics.median(found) for name, found in times.items()}


@contextmanager
def limited(most_bytes: int | None) -> Generator[None]:
    """No file may grow beyond this: reserving a ring fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def measure(names: Sequence[str]) -> dict[str, object]:
    tmpfs = "/dev/shm"  # noqa: S108 - a directory of its own is made in it
    with tempfile.TemporaryDirectory(dir=tmpfs if os.access(tmpfs, os.W_OK) else None) as folder:
        client.init(workload="bench", directory=folder)
        hooks = Hooks()
        found: dict[str, object] = {name: training(SIZES[name], hooks) for name in names}
        assert client.counts() == {}, "the client ignored something that was measured"
        found["ns of CPU a step, hooks alone"] = hook_ns(hooks, Path(folder))
    return found


if __name__ == "__main__":
    json.dump(measure(list(SIZES)), sys.stdout)
