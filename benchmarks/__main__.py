"""`make bench`: every measurement in turn; a JSON file each, and one table.

    python -m benchmarks [NAME ...]

A benchmark is a module here with `run() -> dict`. Ours and its peers' rounds are interleaved in
one process run, so that the machine's drift meets all of them alike: quote medians and ratios,
not single times.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from apportion.core.clock import SystemClock
from apportion.core.units import NS_PER_SECOND

NAMES = (
    "client_span",
    "trainer_cost",
    "settlement",
    "apportion_million",
    "ledger_commit",
    "report_year",
    "metrics_latency",
    "scrapers",
    "exposition_parse",
    "agent_cost",
    "trace_breakdown",
    "flame_svg",
    "py_spy_cost",
)
RESULTS = Path(__file__).parent / "results"
WHOLE_FROM = 1000
"""Figures from here on are shown without decimals."""
PINNED = (
    "apportion",
    "msgspec",
    "numpy",
    "nvitop-exporter",
    "opentelemetry-sdk",
    "prometheus-client",
    "sqlalchemy",
    "torch",
)


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; write results and print the table."""
    RESULTS.mkdir(exist_ok=True)
    unknown = set(names) - set(NAMES)
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
        return 2
    for name in names or NAMES:
        print(f"{name} ...", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        document = {"benchmark": name, "machine": machine(), "result": module.run()}
        text = json.dumps(document, indent=2, sort_keys=True)
        (RESULTS / f"{name}.json").write_text(f"{text}\n")
    table = "\n".join(rows())
    (RESULTS / "README.md").write_text(
        "# Results of `make bench`\n\nOne machine, one run a row; the files beside this page say "
        f"which machine and which versions.\n\n{table}\n"
    )
    print(table)
    return 0


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "time": _today(),
        "versions": {name: _version(name) for name in PINNED},
    }


def rows() -> Iterator[str]:
    """The table of all results on file, in Markdown."""
    yield "| benchmark | figure | value |"
    yield "| --- | --- | ---: |"
    for name in NAMES:
        path = RESULTS / f"{name}.json"
        if path.exists():
            yield from _flat(name, json.loads(path.read_text())["result"], "")


def _flat(name: str, value: object, prefix: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield from _flat(name, inner, f"{prefix} {key}".strip())
    elif isinstance(value, (float, int, str)):
        yield f"| {name} | {prefix} | {_shown(value)} |"


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= WHOLE_FROM:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _today() -> str:
    seconds = SystemClock().realtime_ns() // NS_PER_SECOND
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
