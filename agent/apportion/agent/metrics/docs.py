"""docs/metrics.md, made from the catalogue.

`python -m apportion.agent.metrics.docs [--check] docs/metrics.md` writes it. With `--check`
nothing is written; the exit status is 1 where the file is not in step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from apportion.agent.metrics.catalogue import FAMILIES
from apportion.core.family import BOUNDS, Family


def document() -> str:
    """The page, in Markdown."""
    lines = [
        "# Metrics",
        "",
        "Made from `agent/apportion/agent/metrics/catalogue.py` by `make docs`; do not edit.",
        "",
        "All families are served on `/metrics`, in the Prometheus text format or in OpenMetrics.",
        "`{currency}` is the ledger's currency in lower case, such as `usd`; families with it are",
        "absent where no price table is loaded. A value that a device cannot tell is absent, never",
        "0. Counters start at 0 with the process and only rise; what reallocations moved is in",
        "`apportion_moved_cost_{currency}_total`, what new prices changed of settled time in",
        "`apportion_adjusted_cost_{currency}_total`. The ledger, not Prometheus, is the book.",
        "",
        "In OpenMetrics the buckets of the agent's own histograms have exemplars: the trace id and",
        "the request id of the last span that fell into each. Ask Prometheus to keep them with",
        "`--enable-feature=exemplar-storage`.",
        "",
        'Where a simulator is behind the devices, families marked † carry `simulated="true"`.',
        "",
        "## Families",
        "",
        "| name | type | unit | labels | what it says | from | since |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_row(family) for family in FAMILIES),
        "",
        "## Labels",
        "",
        "An empty label is left out. Request ids, step numbers, process ids and command lines are",
        "never labels.",
        "",
        "| label | values |",
        "| --- | --- |",
        *(f"| `{label}` | {bound} |" for label, bound in BOUNDS.items()),
        "",
    ]
    return "\n".join(lines)


def _row(family: Family) -> str:
    mark = " †" if family.simulated else ""
    labels = ", ".join(f"`{label}`" for label in family.labels)
    cells = (
        f"`{family.name}`{mark}",
        family.kind,
        family.unit,
        labels,
        family.help,
        family.source,
        family.since,
    )
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check it; 0 where it is in step."""
    parser = argparse.ArgumentParser(prog="python -m apportion.agent.metrics.docs")
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("file", type=Path, help="the page, such as docs/metrics.md")
    options = parser.parse_args(arguments)
    path: Path = options.file
    wanted = document()
    if not options.check:
        path.write_text(wanted, encoding="utf-8")
        return 0
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    if found == wanted:
        return 0
    sys.stderr.write(
        f"{path} is not in step with the catalogue; run: "
        f"python -m apportion.agent.metrics.docs {path}\n"
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
