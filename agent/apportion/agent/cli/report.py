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
from apportion.cost.report import DEFAULT_BY, report
from apportion.cost.report_data import report_csv, report_json
from apportion.cost.report_dimensions import NAMES
from apportion.cost.report_text import report_text


def _configure(parser: argparse.ArgumentParser) -> None:
    add_ledger(parser)
    when = "a date or time in UTC, or how long ago (24h, 7d); whole hours are reported"
    parser.add_argument("--since", metavar="WHEN", help=f"from when: {when}")
    parser.add_argument("--until", metavar="WHEN", help="to when, in the same way")
    default = ",".join(DEFAULT_BY)
    parser.add_argument(
        "--by",
        metavar="A,B",
        default=default,
        help=f"group by these of {', '.join(NAMES)} (default: {default})",
    )
    parser.add_argument(
        "--as-of",
        metavar="WHEN",
        help="what was said then: lines that were posted later are left out, and hours that were "
        "not over",
    )
    parser.add_argument(
        "--top",
        metavar="N",
        type=_count,
        help="only so many rows, those that cost most; the others are added up in one",
    )
    add_format(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows from 1 up")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    clock = SystemClock()
    now_ns = clock.realtime_ns()
    since_ns, until_ns, as_of_ns = (
        None if text is None else unix_ns_of(text, now_ns)
        for text in (options.since, options.until, options.as_of)
    )
    by = tuple(name.strip() for name in options.by.split(",") if name.strip())
    with LedgerReader.of(ledger_of(options), clock=clock) as ledger:
        found = report(ledger, since_ns, until_ns, by, as_of_unix_ns=as_of_ns, top=options.top)
    renderers = {"table": report_text, "json": report_json, "csv": report_csv}
    sys.stdout.write(renderers[options.format](found))
    return 0


COMMAND = Command("Reports metered cost, energy, requests, steps and tokens.", _configure, _run)
