"""The largest real trace divided by us and by HolisticTraceAnalysis, figure for figure.

Each round is a process of its own, ours and the peer's in turn: `analysis` is from the file to the
figures, `whole` has the interpreter and its imports, `peak` is the process's largest resident set.
The peer brings a notebook server and its friends, so it has an environment of its own under
build/, made at the first run. `APPORTION_FIXTURES` names the folder of published inputs.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PEER = "HolisticTraceAnalysis==0.5.0"
REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = REPOSITORY / "build" / "hta-venv"
LARGEST = "hta_a100_8rank_rank3_sendrecv_allreduce.json.gz"
ROUNDS = 5
LEAST_RATIO = 5
OURS = """
import json, resource, sys, time
from pathlib import Path
from apportion.profiles.rank_breakdown import RankBreakdown
from apportion.profiles.trace_file import TraceFile

begun = time.perf_counter()
(trace,) = TraceFile(Path(sys.argv[1])).read()
rank = RankBreakdown.of(trace, whole_microseconds=True)
seconds = time.perf_counter() - begun
device = rank.whole.device
print(json.dumps({
    "seconds": seconds,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "idle": 100 * device.idle_ns / device.span_ns,
    "compute": 100 * device.compute_ns / device.span_ns,
    "overlap": 100 * device.overlapped_communication_ns / device.communication_ns,
}))
"""
THEIRS = """
import json, resource, sys, time
from pathlib import Path
from hta.trace_analysis import TraceAnalysis

begun = time.perf_counter()
analysis = TraceAnalysis(trace_dir=str(Path(sys.argv[1]).parent), include_last_profiler_step=True)
(row,) = analysis.get_temporal_breakdown(visualize=False).to_dict("records")
(overlap,) = analysis.get_comm_comp_overlap(visualize=False).to_dict("records")
analysis.get_gpu_kernel_breakdown(visualize=False)
seconds = time.perf_counter() - begun
print(json.dumps({
    "seconds": seconds,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "idle": row["idle_time_pctg"],
    "compute": row["compute_time_pctg"],
    "overlap": overlap["comp_comm_overlap_pctg"],
}))
"""


def run() -> dict[str, object]:
    folder = Path(os.environ.get("APPORTION_FIXTURES", REPOSITORY.parent / "shared" / "fixtures"))
    trace = folder / "traces" / LARGEST
    if not trace.exists():
        return {"left out": "no published inputs (APPORTION_FIXTURES)"}
    if not (ENVIRONMENT / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", PEER]
        subprocess.run(pip, check=True)
    programs = {
        "ours": [sys.executable, "-c", OURS],
        "HolisticTraceAnalysis": [
            str(ENVIRONMENT / "bin" / "python"),
            "-W",
            "ignore",
            "-c",
            THEIRS,
        ],
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    with TemporaryDirectory() as place:
        # the peer takes a folder, and says what it finds on stdout
        shutil.copy(trace, place)
        for _ in range(ROUNDS):
            for name, command in programs.items():
                rounds[name].append(measured([*command, str(Path(place) / LARGEST)]))
    for ours, theirs in zip(*rounds.values(), strict=True):
        assert all(abs(ours[key] - theirs[key]) < 0.1 for key in ("idle", "compute", "overlap"))
    medians = {
        name: {
            key: statistics.median(one[key] for one in found)
            for key in ("seconds", "whole", "peak")
        }
        for name, found in rounds.items()
    }
    ours, theirs = medians.values()
    ratios = {key: theirs[key] / ours[key] for key in ours}
    assert ratios["seconds"] >= LEAST_RATIO, ratios
    assert ratios["peak"] > 1, ratios
    return {
        "analysis s": {name: one["seconds"] for name, one in medians.items()},
        "whole process s": {name: one["whole"] for name, one in medians.items()},
        "peak MiB": {name: one["peak"] for name, one in medians.items()},
        "HolisticTraceAnalysis / ours": {
            "analysis": ratios["seconds"],
            "whole process": ratios["whole"],
            "peak memory": ratios["peak"],
        },
    }


def measured(command: list[str]) -> dict[str, float]:
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begun
    found: Any = json.loads(done.stdout.splitlines()[-1])
    return {**found, "whole": seconds}
