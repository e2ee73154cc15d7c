"""Folded text to SVG, beside flamegraph.pl: 10,000 and 1,000,000 stacks, no two alike.

Whole processes, from the file to the picture, in turn on one input. flamegraph.pl comes from
Debian's libdevel-nytprof-perl, unpacked under build/ at the first run. By default it draws frames
down to 0.1 px and ours down to 0.5 px (its picture zooms, of ours the page does), so it is also
told 0.5 px. Where it cannot be had, ours alone is measured.
"""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).parents[1]
PLACE = REPOSITORY / "build" / "flamegraph"
SCRIPT = PLACE / "usr" / "share" / "perl5" / "Devel" / "NYTProf" / "flamegraph.pl"
PACKAGE = "libdevel-nytprof-perl"
ROUNDS = {10_000: 5, 1_000_000: 1}
FUNCTIONS = 1_000
DEPTHS = (3, 30)
LEAST_RATIO = 5
OURS = """
import sys
from apportion.agent.cli.command import main
sys.exit(main(["flamegraph", "build", sys.argv[1], "-o", sys.argv[2]]))
"""
# prints a command's seconds of CPU and its peak, whatever it is written in
MEASURED = """
import resource, subprocess, sys
with open(sys.argv[1], "wb") as out:
    subprocess.run(sys.argv[2:], stdout=out, stderr=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def run() -> dict[str, object]:
    script = flamegraph_pl()
    result: dict[str, object] = {}
    if script is None:
        result["left out"] = f"flamegraph.pl: no perl, or Debian's {PACKAGE} cannot be had"
    with TemporaryDirectory() as folder:
        stacks, picture = Path(folder) / "stacks.folded", str(Path(folder) / "picture.svg")
        for count, rounds in ROUNDS.items():
            write(stacks, count)
            programs = {"ours": [sys.executable, "-c", OURS, str(stacks), picture]}
            if script is not None:
                perl = ["perl", str(script)]
                programs["flamegraph.pl"] = [*perl, str(stacks)]
                programs["flamegraph.pl at 0.5 px"] = [*perl, "--minwidth", "0.5", str(stacks)]
            found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in programs}
            for _ in range(rounds):
                for name, command in programs.items():
                    found[name].append(measured(command, str(Path(folder) / "out")))
            medians = {
                name: [statistics.median(column) for column in zip(*rows, strict=True)]
                for name, rows in found.items()
            }
            result[f"{count:,} stacks"] = {
                name: {"s": seconds, "CPU s": cpu, "peak MiB": peak}
                for name, (seconds, cpu, peak) in medians.items()
            }
            for name, (seconds, cpu, peak) in medians.items():
                if name != "ours":
                    ours = medians["ours"]
                    result[f"{count:,} stacks, {name} / ours"] = {
                        "s": seconds / ours[0],
                        "CPU s": cpu / ours[1],
                        "peak": peak / ours[2],
                    }
            if script is not None:
                # each as it is started; and of CPU: what else the machine does meets the two in
                # turn, not at once
                ratio = medians["flamegraph.pl"][1] / medians["ours"][1]
                assert ratio >= LEAST_RATIO, (count, medians)
    return result


def flamegraph_pl() -> Path | None:
    """The peer's program; None where this machine cannot have it."""
    if shutil.which("perl") is None:
        return None
    if not SCRIPT.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            return None
        PLACE.mkdir(parents=True, exist_ok=True)
        download = ["apt-get", "-o", "APT::Sandbox::User=", "-qq", "download", PACKAGE]
        if subprocess.run(download, cwd=PLACE, check=False).returncode:
            return None
        (archive,) = PLACE.glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(PLACE)], check=True)
    return SCRIPT


def write(path: Path, count: int) -> None:
    """Stacks of a thousand functions, each with a leaf of its own: worse than real profiles."""
    chance = random.Random(1)
    with path.open("w") as file:
        for number in range(count):
            depth = chance.randint(*DEPTHS)
            frames = [
                f"function_{chance.randrange(FUNCTIONS)}(f.py:{line})" for line in range(depth)
            ]
            file.write(f"{';'.join(frames[:-1])};leaf_{number} {chance.randint(1, 100)}\n")


def measured(command: list[str], out: str) -> tuple[float, float, float]:
    """Seconds, seconds of CPU, and MiB at most."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-S", "-c", MEASURED, out, *command],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - begun
    cpu, peak = map(float, done.stdout.split())
    return seconds, cpu, peak
