"""`apportion report`: what it cost, and who caused it."""

from __future__ import annotations

import argparse
import sys

from apportion.agent.cli.command import Command
from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.ledger_option import add_ledger, ledger_of
from apportion.agent.cli.listing import add_format
from apportion.core.clock import SystemClock
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.loaded_cost import Loading
from apportion.cost.report import DEFAULT_BY, report
from apportion.cost.report_data import report_csv, report_json
from apportion.cost.report_text import report_text


def _configure(parser: argparse.ArgumentParser) -> None:
    add_ledger(parser)
    when = "a date or time in UTC, or how long ago (24h, 7d); whole hours are reported"
    parser.add_argument("--since", metavar="WHEN", help=f"from when: {when}")
    parser.add_argument("--until", metavar="WHEN", help="to when, in the same way")
    default = ",".join(DEFAULT_BY)
    parser.add_argument(
        "--by", metavar="A,B", default=default, help=f"group by these (default: {default})"
    )
    parser.add_argument(
        "--loaded",
        choices=[loading.value for loading in Loading],
        help="show loaded cost: direct, and the workload's own startup, between_steps, checkpoint, "
        "evaluation and allocated_idle shared among its rows: not at all (none), in proportion to "
        "direct cost (weighted), or evenly",
    )
    add_format(parser)


def _run(options: argparse.Namespace) -> int:
    clock = SystemClock()
    now_ns = clock.realtime_ns()
    since_ns, until_ns = (
        None if text is None else unix_ns_of(text, now_ns)
        for text in (options.since, options.until)
    )
    by = tuple(name.strip() for name in options.by.split(",") if name.strip())
    with LedgerReader.of(ledger_of(options), clock=clock) as ledger:
        found = report(ledger, since_ns, until_ns, by, loading=_loading(options.loaded))
    renderers = {"table": report_text, "json": report_json, "csv": report_csv}
    sys.stdout.write(renderers[options.format](found))
    return 0


def _loading(policy: str | None) -> Loading | None:
    return None if policy is None else Loading(policy)


COMMAND = Command("Reports metered cost, energy, requests, steps and tokens.", _configure, _run)
