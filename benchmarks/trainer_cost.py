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

    python -m benchmarks.trainer_cost --minutes 6.5 --half-width 0.15
"""

from __future__ import annotations

import argparse
import gc
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
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apportion import client
from benchmarks.estimate import TRIMMED, Estimate
from benchmarks.trainer import EXAMPLE, SHORT, Hooks, Size, Training

EXAMPLES = Path(__file__).parents[1] / "examples"
MINUTES, HALF_WIDTH_PCT = 6.5, 0.15
"""For both comparisons on the example together."""
SHORT_MINUTES = 0.5
"""The same for steps of a millisecond, which only show what a step costs at most."""
WARM_UP, LOOK_EVERY = 10, 100
PLACE_ROUNDS, PLACE_WARM_UP, PLACE_STEPS = 10, 2, 10
ALONE_ROUNDS, ALONE_STEPS = 60, 1_000
CAPACITY, SMALL_CAPACITY = 32_768, 2
NO_SPACE_BYTES = 1 << 20
NOBODY = 65_534
CLOCKS: Final = ("wall", "CPU")
WAYS: Final = ("hooks", "client.step(), 3 phases")

Floats = NDArray[np.float64]


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
        ratio = Estimate.of_ratios(times[:, 1, clock], times[:, 0, clock])
        one, low, high = (100 * each for each in ratio)
        found[f"slower by % of {name}"] = f"{one:+.3f} (95 %: {low:+.3f} to {high:+.3f})"
    return found


def log_ratios(times: Floats, clock: int) -> Floats:
    """Of each pair: the measured step to the other one."""
    found: Floats = np.log(times[:, 1, clock] / times[:, 0, clock])
    return found


def half_width(values: Floats) -> float:
    """Of the trimmed mean's 95 % interval, by its winsorised deviation: when to stop."""
    low, high = np.quantile(values, [TRIMMED, 1 - TRIMMED])
    deviation = float(np.std(np.clip(values, low, high), ddof=1))
    return float(1.96 * deviation / ((1 - 2 * TRIMMED) * np.sqrt(len(values))))


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
    took = Estimate.of(took_ns)
    return {
        "us of CPU a step": took.mean / 1e3,
        "slower by % at most (97.5 %)": 100 * took.high / step_ns,
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
