"""What the client costs a PyTorch trainer: the same training with it and without, step by step.

One process trains one model, and each step is timed by itself. Two neighbours are a pair: one is
measured by apportion and one is not, in random order, so that the machine's drift and whatever one
step leaves to the next meet both alike. What is switched between them is switched off the clock:
the hooks are taken out of PyTorch's lists, as if they had never been asked for, and put back. The
figure is the 20 % trimmed mean of the pairs' log ratios, with the interval that holds 95 % of its
bootstrap. Pairs are made until that interval is narrow enough, or for so many minutes. The learning
rate is 0: all steps do the same work. PyTorch computes in one thread, whose CPU time is given
beside the wall clock: neighbours on the machine disturb it less. The garbage collector runs as it
does, but leaves alone what was there before.

Nobody reads the ring: there is no agent. What else may be missing is measured where it happens,
between PyTorch's own work with the caches that it leaves: a ring that is full, a directory that is
not there, that this user may not write, or that has no space. Last, hooks and `client.step()` by
themselves, one after the other, which keeps the caches warm.

    python -m benchmarks.trainer_cost --minutes 6.5 --half-width 0.25
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, perf_counter_ns, thread_time_ns
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apportion import client

EXAMPLES = Path(__file__).parents[1] / "examples"
MINUTES, HALF_WIDTH_PCT = 6.5, 0.15
"""For both comparisons on the example together."""
SHORT_MINUTES = 0.5
"""The same for steps of a millisecond, which only show what a step costs at most."""
WARM_UP, LOOK_EVERY = 10, 100
TRIMMED = 0.2
RESAMPLES = 2_000
PLACE_ROUNDS, PLACE_WARM_UP, PLACE_STEPS = 10, 2, 10
ALONE_ROUNDS, ALONE_STEPS = 60, 1_000
CAPACITY, SMALL_CAPACITY = 32_768, 2
NO_SPACE_BYTES = 1 << 20
NOBODY = 65_534
CLOCKS: Final = ("wall", "CPU")
WAYS: Final = ("hooks", "client.step(), 3 phases")

Floats = NDArray[np.float64]


class Size(NamedTuple):
    """A model and its batch."""

    layers: int
    width: int
    sequences: int
    tokens: int


EXAMPLE = Size(5, 128, 4, 64)
SHORT = Size(1, 32, 1, 16)


def run() -> dict[str, object]:
    if find_spec("torch") is None:
        return {"left out": "PyTorch is not installed (requirements/torch.txt)"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.trainer_cost"],
        check=True,
        stdout=subprocess.PIPE,
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
    """One model in training."""

    def __init__(self, size: Size) -> None:
        torch: Any = importlib.import_module("torch")  # only the measuring process has them
        gpt: Any = importlib.import_module("gpt")
        torch.manual_seed(1)
        torch.set_num_threads(1)
        shape = gpt.Shape(layers=size.layers, width=size.width, context=size.tokens)
        self._model = gpt.Gpt(shape)
        self.optimizer = torch.optim.AdamW(self._model.parameters(), lr=0.0)
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

    def timed_step_with_phases(self) -> int:
        """The same; the nanoseconds of CPU that the client took of it."""
        self._number += 1
        watch = Watch()
        with watch(lambda: client.step(self._number)) as step:
            with watch(lambda: step.phase("forward")):
                loss = self._model.loss(self._batch)
            with watch(lambda: step.phase("backward")):
                loss.backward()
            with watch(lambda: step.phase("optimizer")):
                self.optimizer.step()
                self.optimizer.zero_grad()
            begin_ns = thread_time_ns()
            step.add(tokens=self._tokens)
            watch.took_ns += thread_time_ns() - begin_ns
        return watch.took_ns


class Watch:
    """Adds up the CPU time that making, entering and leaving contexts takes, not what is within."""

    def __init__(self) -> None:
        self.took_ns = 0

    @contextmanager
    def __call__(self, make: Callable[[], Any]) -> Generator[Any]:
        begin_ns = thread_time_ns()
        context = make()
        entered = context.__enter__()
        self.took_ns += thread_time_ns() - begin_ns
        yield entered
        begin_ns = thread_time_ns()
        context.__exit__(None, None, None)
        self.took_ns += thread_time_ns() - begin_ns


class Hooks:
    """The client's among PyTorch's hooks for all optimizers, which can be taken out."""

    def __init__(self) -> None:
        module: Any = importlib.import_module("torch.optim.optimizer")
        client.torch_steps().stop()
        # There is no public way to have a hook, and not to have it, and to have it again.
        self._places: list[dict[int, Any]] = [
            module._global_optimizer_pre_hooks,  # noqa: SLF001 - as said
            module._global_optimizer_post_hooks,  # noqa: SLF001 - as said
        ]
        self._hooks = [dict(place) for place in self._places]
        self.take_out()

    def put_in(self) -> None:
        for place, hooks in zip(self._places, self._hooks, strict=True):
            place.update(hooks)

    def take_out(self) -> None:
        for place in self._places:
            place.clear()

    @contextmanager
    def timed(self, took_ns: list[int]) -> Generator[None]:
        """In place, with how long both hooks of each step took of the thread's CPU time."""

        def before(*arguments: Any) -> None:
            begin_ns = thread_time_ns()
            hook_before(*arguments)
            took_ns.append(thread_time_ns() - begin_ns)

        def after(*arguments: Any) -> None:
            begin_ns = thread_time_ns()
            hook_after(*arguments)
            took_ns[-1] += thread_time_ns() - begin_ns

        (first, hook_before), (second, hook_after) = (
            next(iter(hooks.items())) for hooks in self._hooks
        )
        self._places[0][first], self._places[1][second] = before, after
        with client.torch_steps():
            yield
        self.take_out()

    def alone(self, optimizer: object) -> Callable[[], None]:
        """Both hooks of one step, without the step."""
        hooks = [hook for place in self._hooks for hook in place.values()]

        def call() -> None:
            for hook in hooks:
                hook(optimizer, (), {})

        return call


# -- throughput ---------------------------------------------------------------------------------
Way = tuple[Callable[[], object], Callable[[], None]]
"""What is switched before a step, off the clock, and the step."""


def compared(size: Size, hooks: Hooks, minutes: float, half_width_pct: float) -> dict[str, object]:
    """How much slower each way is than none."""
    work = Training(size)
    without: Way = (hooks.take_out, work.step)
    with client.torch_steps():
        by_hooks = pairs(without, (hooks.put_in, work.step), minutes / 2, half_width_pct)
        hooks.take_out()
    by_steps = pairs(without, (hooks.take_out, work.step_with_phases), minutes / 2, half_width_pct)
    return {
        "ms of CPU a step": float(np.median(by_hooks[:, 0, 1])) / 1e6,
        WAYS[0]: slower(by_hooks),
        WAYS[1]: slower(by_steps),
    }


def pairs(without: Way, measured: Way, minutes: float, half_width_pct: float) -> Floats:
    """Nanoseconds by pair, way (without, measured) and clock (wall, CPU)."""
    source, found = random.Random(1), list[tuple[tuple[int, int], tuple[int, int]]]()
    ways = (without, measured)
    gc.collect()
    gc.freeze()
    end = monotonic() + 60 * minutes
    while monotonic() < end:
        first = source.random() < 0.5
        one, other = timed(ways[first]), timed(ways[not first])
        found.append((other, one) if first else (one, other))
        if len(found) % LOOK_EVERY == 0 and len(found) > WARM_UP:
            times = np.array(found[WARM_UP:], np.float64)
            if all(half_width(log_ratios(times, clock)) < half_width_pct / 100 for clock in (0, 1)):
                break
    gc.unfreeze()
    return np.array(found[WARM_UP:], np.float64)


def nothing() -> None:
    """In place of a switch."""


def timed(way: Way) -> tuple[int, int]:
    """A step: wall and CPU nanoseconds."""
    switch, step = way
    switch()
    wall_ns, cpu_ns = perf_counter_ns(), thread_time_ns()
    step()
    return perf_counter_ns() - wall_ns, thread_time_ns() - cpu_ns


def slower(times: Floats) -> dict[str, object]:
    """By clock, in words."""
    found: dict[str, object] = {"pairs": len(times)}
    for clock, name in enumerate(CLOCKS):
        found[f"slower by % of {name}"] = interval(log_ratios(times, clock))
    return found


def log_ratios(times: Floats, clock: int) -> Floats:
    """Of each pair: the measured step to the other one."""
    found: Floats = np.log(times[:, 1, clock] / times[:, 0, clock])
    return found


def trimmed_mean(values: Floats) -> Floats:
    """Without the lowest and the highest fifth; along the last axis."""
    cut = int(TRIMMED * values.shape[-1])
    found: Floats = np.sort(values)[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return found


def half_width(values: Floats) -> float:
    """Of the trimmed mean's 95 % interval, by its winsorised deviation: when to stop."""
    low, high = np.quantile(values, [TRIMMED, 1 - TRIMMED])
    deviation = float(np.std(np.clip(values, low, high), ddof=1))
    return float(1.96 * deviation / ((1 - 2 * TRIMMED) * np.sqrt(len(values))))


def interval(ratios: Floats) -> str:
    """A trimmed mean of log ratios in per cent, and the interval of its bootstrap."""
    source = np.random.default_rng(1)
    means = [trimmed_mean(source.choice(ratios, ratios.size)) for _ in range(RESAMPLES)]
    middle = trimmed_mean(ratios)
    low, high = np.percentile(means, [2.5, 97.5])
    one, two, three = (100 * np.expm1(each) for each in (middle, low, high))
    return f"{one:+.3f} (95 %: {two:+.3f} to {three:+.3f})"


# -- what may be missing ------------------------------------------------------------------------
class State(NamedTuple):
    """What there is to write into."""

    directory: Path
    has_ring: bool = False
    """Whether one can be made there."""
    capacity: int = CAPACITY
    most_bytes: int | None = None
    """No file may grow beyond this: reserving a ring fails as it does on a full disk."""
    as_nobody: bool = False
    """Root may write everywhere, so it is somebody else meanwhile."""

    @contextmanager
    def here(self) -> Generator[None]:
        """The client finds it so."""
        with ExitStack() as stack:
            if self.most_bytes is not None:
                before = resource.getrlimit(resource.RLIMIT_FSIZE)
                stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.most_bytes, before[1]))
            if self.as_nobody and os.geteuid() == 0:
                stack.callback(os.setresuid, 0, 0, 0)
                os.setresuid(NOBODY, NOBODY, 0)
            client.init(workload="bench", directory=self.directory, capacity=self.capacity)
            yield
        rings = list(self.directory.glob("*.ring"))
        assert bool(rings) is self.has_ring, f"{self}: {rings}"
        for ring in rings:
            ring.unlink()


def states(directory: Path) -> dict[str, State]:
    """By name. Nobody reads any of the rings."""
    inside, read_only = directory / "states", directory / "read-only"
    inside.mkdir()
    (inside / "file").touch()
    read_only.mkdir(mode=0o555)
    directory.chmod(0o755)  # or nobody could look into it
    return {
        "a ring": State(inside, has_ring=True),
        "a ring that is always full": State(inside, has_ring=True, capacity=SMALL_CAPACITY),
        "no directory": State(inside / "missing"),
        "a directory that is none": State(inside / "file"),
        "a read-only directory": State(read_only, as_nobody=True),
        "no space": State(inside, most_bytes=NO_SPACE_BYTES),
    }


def in_place(hooks: Hooks, places: dict[str, State]) -> dict[str, object]:
    """What the client takes within steps of the example, and what part of those that is."""
    work = Training(EXAMPLE)
    took: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in places}
    whole_ns: list[int] = []
    for _ in range(PLACE_ROUNDS):
        for name, place in places.items():
            with place.here():
                by_hooks: list[int] = []
                with hooks.timed(by_hooks):
                    whole_ns += [timed((nothing, work.step))[1] for _ in range(PLACE_STEPS)]
                by_steps = [work.timed_step_with_phases() for _ in range(PLACE_STEPS)]
            took[name][0].extend(by_hooks[PLACE_WARM_UP:])
            took[name][1].extend(by_steps[PLACE_WARM_UP:])
    step_ns = float(np.median(whole_ns))
    return {
        name: {way: part(took_ns, step_ns) for way, took_ns in zip(WAYS, both, strict=True)}
        for name, both in took.items()
    }


def part(took_ns: list[int], step_ns: float) -> dict[str, float]:
    """A trimmed mean, and what it is at most of a step."""
    source, values = np.random.default_rng(1), np.array(took_ns, np.float64)
    means = [trimmed_mean(source.choice(values, values.size)) for _ in range(RESAMPLES)]
    return {
        "us of CPU a step": float(trimmed_mean(values)) / 1e3,
        "slower by % at most (97.5 %)": 100 * float(np.percentile(means, 97.5)) / step_ns,
    }


def alone(hooks: Hooks, places: dict[str, State]) -> dict[str, object]:
    """Nanoseconds of CPU a step, without any training in between."""
    optimizer = Training(SHORT).optimizer
    call = hooks.alone(optimizer)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in places}
    for _ in range(ALONE_ROUNDS):
        for name, place in places.items():
            with place.here():
                with client.torch_steps():
                    times[name][0].append(ns_of(call))
                times[name][1].append(ns_of(bare_step))
    return {
        name: {way: statistics.median(each) for way, each in zip(WAYS, both, strict=True)}
        for name, both in times.items()
    }


def bare_step() -> None:
    """What a loop adds to its step."""
    with client.step(1) as step:
        for name in ("forward", "backward", "optimizer"):
            with step.phase(name):
                pass
        step.add(tokens=1)


def ns_of(call: Callable[[], None]) -> float:
    """CPU nanoseconds of a call."""
    for _ in range(ALONE_STEPS // 10):
        call()
    begin_ns = thread_time_ns()
    for _ in range(ALONE_STEPS):
        call()
    return (thread_time_ns() - begin_ns) / ALONE_STEPS


def measure(minutes: float, half_width_pct: float) -> dict[str, object]:
    tmpfs = "/dev/shm"  # noqa: S108 - a directory of its own is made in it
    with tempfile.TemporaryDirectory(dir=tmpfs if os.access(tmpfs, os.W_OK) else None) as folder:
        client.init(workload="bench", directory=folder)
        hooks = Hooks()
        found: dict[str, object] = {
            "the example": compared(EXAMPLE, hooks, minutes, half_width_pct),
            "steps of a millisecond": compared(SHORT, hooks, SHORT_MINUTES, half_width_pct),
        }
        assert client.counts() == {}, "the client ignored something that was measured"
        places = states(Path(folder))
        found["in place, the example"] = in_place(hooks, places)
        found["ns of CPU a step, alone"] = alone(hooks, places)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer_cost")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--half-width", type=float, default=HALF_WIDTH_PCT)
    options = parser.parse_args()
    json.dump(measure(options.minutes, options.half_width), sys.stdout)
