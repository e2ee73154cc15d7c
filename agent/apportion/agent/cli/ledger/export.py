"""`apportion ledger export`: the ledger as Parquet files, a file for each day."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.ledger.action import Action
from apportion.agent.cli.ledger_option import add_ledger, ledger_of
from apportion.core.clock import SystemClock
from apportion.cost.export.export import export


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the datasets go")
    parser.add_argument(
        "--format", choices=["parquet"], default="parquet", help="of the files (default: parquet)"
    )
    when = "a date or time in UTC, or how long ago (24h, 7d); whole days are written"
    parser.add_argument("--since", metavar="WHEN", help=f"from when: {when}")
    parser.add_argument("--until", metavar="WHEN", help="to when, in the same way")
    add_ledger(parser)


def _run(options: argparse.Namespace) -> int:
    now_ns = SystemClock().realtime_ns()
    since_ns, until_ns = (
        None if text is None else unix_ns_of(text, now_ns)
        for text in (options.since, options.until)
    )
    done = export(ledger_of(options), options.directory, since_ns, until_ns)
    counts = ", ".join(f"{count} {name}" for name, count in done.rows.items())
    sys.stdout.write(f"{options.directory}: {counts or 'nothing'}, in {done.files} files\n")
    for note in done.notes:
        sys.stdout.write(f"{note}\n")
    return 0


ACTION = Action(
    "write lines, spans, meter and hourly sums as Parquet, a file for each day and agent "
    "(apportion[export])",
    _configure,
    _run,
)
