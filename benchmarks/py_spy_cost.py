"""What a burst of `apportion profile cpu` costs the demo's trainer, py-spy's own CPU included.

One trainer runs all the time, and bursts at our default rate come and go: a pair of blocks, one
with a burst and one without, in an order by chance, again and again. What slows it is seen in its
own CPU time for each step, which neighbours on the machine disturb least; blocks of a pair are
compared, and pairs are drawn anew (bootstrap) to say how far the answer can be trusted. py-spy's
CPU is what the machine loses beside it. At the default pace a burst of ten seconds comes every
five minutes.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from apportion.profiles.py_spy import Burst, PySpy

EXAMPLES = Path(__file__).parents[1] / "examples"
PAIRS = 12
EVERY_S = 300
WARM_S = 20
DRAWS = 4000
MOST_PERCENT = 1.0
# the demo's trainer; a line for each step: when it ended, and the CPU time that it took
TRAINER = """
import contextlib, sys, time
sys.path.insert(0, sys.argv.pop(1))
import train_gpt
inner, out = train_gpt.client.step, open(sys.argv.pop(1), "w", buffering=1)

@contextlib.contextmanager
def step(number):
    before = time.process_time_ns()
    with inner(number) as own:
        yield own
    out.write(f"{time.monotonic_ns()} {time.process_time_ns() - before}\\n")

train_gpt.client.step = step
train_gpt.main()
"""


class Block(NamedTuple):
    """A time, and what py-spy used in it itself; None without a burst."""

    start_ns: int
    end_ns: int
    own_s: float | None


def run() -> dict[str, object]:
    if find_spec("torch") is None:
        return {"left out": "PyTorch is not installed (requirements/torch.txt)"}
    burst = Burst()
    with tempfile.TemporaryDirectory() as folder:
        steps = Path(folder) / "steps"
        environment = {**os.environ, "APPORTION_RING_DIR": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", TRAINER, str(EXAMPLES), str(steps), "--device", "cpu"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            while not steps.exists() or not steps.read_text():
                time.sleep(0.1)
            time.sleep(WARM_S)
            pairs = [pair(process.pid, burst) for _ in range(PAIRS)]
        finally:
            process.terminate()
            process.wait()
        rows = [tuple(map(int, line.split())) for line in steps.read_text().splitlines()]
    costs = [(cpu_ns(rows, alone), cpu_ns(rows, sampled)) for alone, sampled in pairs]
    slower = [100 * (sampled / alone - 1) for alone, sampled in costs]
    low, high = interval(slower)
    own = 100 * statistics.fmean(one.own_s or 0.0 for _, one in pairs) / burst.duration_s
    duty = burst.duration_s / EVERY_S
    assert (max(0.0, high) + own) * duty < MOST_PERCENT, (slower, own)
    return {
        "steps": len(rows),
        "CPU ms a step alone": statistics.median(alone for alone, _ in costs) / 1e6,
        "burst, py-spy's CPU % of one": own,
        "burst, trainer slower by %": statistics.fmean(slower),
        "burst, trainer slower by %, 95 % interval": [low, high],
        "burst, both, % at most": max(0.0, high) + own,
        "at the default pace, both, % at most": (max(0.0, high) + own) * duty,
    }


def pair(pid: int, burst: Burst) -> tuple[Block, Block]:
    """A block without a burst and one with it, in an order by chance."""
    found: dict[bool, Block] = {}
    for is_sampled in random.sample((False, True), 2):
        start_ns = time.monotonic_ns()
        own_s = None
        if is_sampled:
            own_s = PySpy().record(pid, burst).cpu_s
        else:
            time.sleep(burst.duration_s)
        found[is_sampled] = Block(start_ns, time.monotonic_ns(), own_s)
    return found[False], found[True]


def cpu_ns(steps: list[tuple[int, ...]], block: Block) -> float:
    """Of a step, on average; steps that began before the block are left out by what they took."""
    own = [cpu for end_ns, cpu in steps if block.start_ns + cpu < end_ns <= block.end_ns]
    return statistics.fmean(own)


def interval(values: list[float]) -> tuple[float, float]:
    """Of the mean: what 95 % of means of as many values, drawn from these, lie between."""
    chance = random.Random(1)
    means = sorted(statistics.fmean(chance.choices(values, k=len(values))) for _ in range(DRAWS))
    return means[DRAWS // 40], means[-DRAWS // 40]
