"""What a burst of `apportion profile cpu` costs the demo's trainer, py-spy's own CPU included.

The trainer runs with a burst at our default rate and without, in turn. What slows it is seen in
steps for each second of its own CPU time, which neighbours on the machine disturb least; py-spy's
CPU is what the machine loses beside it. At the default pace a burst of ten seconds comes every
five minutes.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from apportion.profiles.py_spy import Burst, PySpy

TRAINER = Path(__file__).parents[1] / "examples" / "train_gpt.py"
ROUNDS = 5
EVERY_S = 300
SECONDS = 15
START_S = 5
MOST_PERCENT = 1.0


def run() -> dict[str, object]:
    if find_spec("torch") is None:
        return {"left out": "PyTorch is not installed (requirements/torch.txt)"}
    burst = Burst()
    rates: dict[str, list[float]] = {"alone": [], "with py-spy": []}
    own_s: list[float] = []
    for _ in range(ROUNDS):
        for name, found in rates.items():
            found.append(steps_per_cpu_second(burst if name == "with py-spy" else None, own_s))
    slower = 100 * (1 - statistics.median(rates["with py-spy"]) / statistics.median(rates["alone"]))
    own = 100 * statistics.median(own_s) / burst.duration_s
    # only the burst's part of a run was sampled
    slower *= SECONDS / burst.duration_s
    duty = burst.duration_s / EVERY_S
    total = (max(0.0, slower) + own) * duty
    assert total < MOST_PERCENT, (slower, own)
    return {
        "burst, py-spy's CPU % of one": own,
        "burst, trainer slower by %": slower,
        "noise: spread of rounds alone, %": spread(rates["alone"]),
        "at the default pace, both, %": total,
        "steps per CPU second": {name: statistics.median(found) for name, found in rates.items()},
    }


def spread(values: list[float]) -> float:
    return 100 * (max(values) - min(values)) / statistics.median(values)


def steps_per_cpu_second(burst: Burst | None, own_s: list[float]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "APPORTION_RING_DIR": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(TRAINER), "--device", "cpu", "--seconds", str(SECONDS)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        sampler_s = 0.0
        if burst is not None:
            time.sleep(START_S)
            found = PySpy().record(process.pid, burst)
            sampler_s = found.cpu_s
            own_s.append(sampler_s)
        out, _ = process.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - sampler_s
    steps: int = json.loads(out.splitlines()[-1])["steps"]
    return steps / cpu_s
