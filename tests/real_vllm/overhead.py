"""What `apportion` costs a real vLLM: the same requests with it and without, in turn.

    python -m tests.real_vllm.overhead build/vllm-venv/bin/python
        [--mode counts|windows|exact] [--minutes 15] [--starts 3]

A turn is some requests, the same each time, sent as in `make test-vllm`; nothing is kept in the
prefix cache, so that each turn computes the same. First one vLLM alone, in which ours is switched
off and on (`switch.py`), two turns a round in random order, until the interval of throughput is
narrow or the minutes are over. In every fourth round ours is also timed where it is, which resolves
far more: the CPU time of the middleware, the plugin and the scheduler's part, without what they
call of vLLM, and without what the timing adds, which a turn with nothing in their place tells.

Then two whole vLLMs at once, one with ours and one to which nothing of it was given, in turn as
well, and started anew some times: coarser, because no two processes are alike, but it has what the
switch does not switch off: what vLLM does more since there is a plugin and iterations are told of.

Figures are the trimmed mean of the rounds' log ratios, with the interval that holds 95 % of its
bootstrap. CPU time is that of all of vLLM's processes, by the kernel; neighbours on the machine
disturb it less than throughput. The load is made on the same cores. No agent runs: what one costs
is measured by `make bench`.

A tiny model on a CPU is the hardest case: its iterations take milliseconds, and the server that
answers HTTP shares its cores with the engine.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks.estimate import Estimate
from tests.real_vllm import programs
from tests.real_vllm.runs import COUNTS, EXACT_SCHEDULER, MIDDLEWARE, NO_PLUGIN
from tests.real_vllm.turns import TRIMMED, Pairs, Server, Turn

FOLDER: Final = Path("build/vllm-overhead")
MODEL: Final = Path(__file__).with_name("model.py")
MODES: Final = {
    "counts": COUNTS,
    "windows": MIDDLEWARE,
    "exact": (*MIDDLEWARE, "--scheduler-cls", EXACT_SCHEDULER),
}
SWITCHED: Final = {
    "apportion.client.asgi.RequestMiddleware": "switch.Middleware",
    EXACT_SCHEDULER: "switch.Scheduler",
}
WORDS: Final = 3
OFF, ON, TIMED, EMPTY = range(4)
"""As in `switch.py`."""
TIMED_EVERY: Final = 4
FEWEST_ROUNDS: Final = 12
ROUNDS_A_START: Final = 8
NARROW: Final = 0.004
"""Half of the interval."""


@contextmanager
def running(
    folder: Path, python: Path, flags: Sequence[str], variables: Mapping[str, str]
) -> Generator[Server]:
    """A vLLM that has served the requests already."""
    port = programs.free_port()
    more = ("--no-enable-prefix-caching", *flags)
    with programs.vllm(folder, python, port, more, variables) as program:
        server = Server(program, port)
        server.turn()
        server.turn()
        yield server


def switched(
    folder: Path, python: Path, mode: str, rings: str, minutes: float
) -> dict[str, Estimate]:
    """Figures of one vLLM."""
    file = folder / "switch"
    file.write_bytes(bytes(8 * WORDS))
    words = np.memmap(file, np.int64, "r+")
    flags = [SWITCHED.get(flag, flag) for flag in MODES[mode]]
    pairs, source = Pairs(), random.Random(1)
    of_all: list[float] = []
    of_server: list[float] = []
    with running(
        folder, python, flags, {"SWITCH": str(file), "APPORTION_RING_DIR": rings}
    ) as server:

        def turn(way: int) -> Turn:
            words[0], words[1:] = way, 0
            return server.turn()

        for way in (ON, TIMED, EMPTY):
            turn(way)
        deadline_s = time.monotonic() + 60 * minutes
        while time.monotonic() < deadline_s:
            pairs.add({way == ON: turn(way) for way in source.sample((OFF, ON), 2)})
            if len(pairs) % TIMED_EVERY:
                continue
            timed = turn(TIMED)
            took_s = words[1:] / 1e9
            turn(EMPTY)
            took_s -= words[1:] / 1e9
            of_all.append(float(took_s.sum()) / timed.cpu_seconds)
            of_server.append(float(took_s[0]) / timed.server_cpu_seconds)
            print(f"{len(pairs)} rounds: slower by {pairs.slower()}", file=sys.stderr, flush=True)
            if len(pairs) >= FEWEST_ROUNDS and pairs.slower().half < NARROW:
                break
    return {
        f"one vLLM, switched, {len(pairs)} rounds: slower by": pairs.slower(),
        "more CPU time": pairs.dearer(),
        "timed in place, part of vLLM's CPU time": Estimate.of(of_all, TRIMMED),
        "of that of the process that answers HTTP": Estimate.of(of_server, TRIMMED),
    }


def beside(folder: Path, python: Path, mode: str, rings: str, starts: int) -> dict[str, Estimate]:
    """Figures of two vLLMs, with ours and without."""
    pairs, source = Pairs(), random.Random(1)
    for start in range(starts):
        with (
            running(folder, python, MODES[mode], {"APPORTION_RING_DIR": rings}) as ours,
            running(folder, python, (), NO_PLUGIN) as theirs,
        ):
            servers = {True: ours, False: theirs}
            for _ in range(ROUNDS_A_START):
                pairs.add({way: servers[way].turn() for way in source.sample((False, True), 2)})
        print(f"{start + 1} starts: slower by {pairs.slower()}", file=sys.stderr, flush=True)
    return {
        f"two vLLMs, {starts} starts of {ROUNDS_A_START} rounds: slower by": pairs.slower(),
        "they: more CPU time": pairs.dearer(),
    }


def main(arguments: list[str]) -> int:
    """Parse, measure and say."""
    parser = argparse.ArgumentParser(description="a real vLLM with apportion and without")
    parser.add_argument("python", type=Path, help="of the environment that vLLM is in")
    parser.add_argument("--mode", choices=MODES, default="counts")
    parser.add_argument("--minutes", type=float, default=15.0, help="at most, of the one vLLM")
    parser.add_argument("--starts", type=int, default=3, help="of the two vLLMs")
    options = parser.parse_args(arguments)
    python, mode = options.python.absolute(), options.mode
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    folder = FOLDER.resolve()
    subprocess.run([python, MODEL, folder / "model"], check=True)
    programs.importable("switch", folder)
    tmpfs = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=tmpfs if os.access(tmpfs, os.W_OK) else None) as rings:
        found = switched(folder, python, mode, rings, options.minutes)
        if options.starts:
            found |= beside(folder, python, mode, rings, options.starts)
    print(f"| `{mode}` | mean (95 %) |\n| --- | ---: |")
    for name, figure in found.items():
        print(f"| {name} | {figure} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
