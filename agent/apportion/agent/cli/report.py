"""`apportion report`: what it cost, and who caused it."""

from __future__ import annotations

import argparse
import contextlib
import sys

from apportion.agent.cli.command import Command
from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.ledger_option import add_ledgers, ledgers_of
from apportion.agent.cli.listing import add_format
from apportion.agent.duration import Duration
from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.several import open_ledgers
from apportion.cost.loaded_cost import Loading
from apportion.cost.report import DEFAULT_BY, report
from apportion.cost.report_data import report_csv, report_json
from apportion.cost.report_dimensions import NAMES
from apportion.cost.report_text import report_text
from apportion.cost.serving.request_data import request_csv, request_json
from apportion.cost.serving.request_report import request_report, top_requests
from apportion.cost.serving.request_text import request_text, requests_table
from apportion.cost.training.run_data import run_csv, run_documents, run_json
from apportion.cost.training.run_report import run_report
from apportion.cost.training.run_text import run_table, run_text


def _duration(text: str) -> Duration:
    """As argparse wants it."""
    try:
        duration = Duration.parse(text)
    except ValueError as failure:
        raise argparse.ArgumentTypeError(str(failure)) from failure
    if not duration.ns:
        raise argparse.ArgumentTypeError("must be more than nothing")
    return duration


def _configure(parser: argparse.ArgumentParser) -> None:
    add_ledgers(parser)
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
    parser.add_argument(
        "--loaded",
        choices=[loading.value for loading in Loading],
        help="show loaded cost: direct, and the workload's own startup, between_steps, checkpoint, "
        "evaluation and allocated_idle shared among its rows: not at all (none), in proportion to "
        "direct cost (weighted), or evenly",
    )
    parser.add_argument(
        "--run", metavar="NAME", help="one run: attempts, lost work, goodput, checkpoints"
    )
    parser.add_argument(
        "--mtbf",
        metavar="TIME",
        type=_duration,
        help="with --run: the mean time between failures to reckon with, such as 3h",
    )
    parser.add_argument(
        "--request",
        metavar="ID",
        help="one request, by its id or its trace's: what it cost, beside the mean of its like",
    )
    parser.add_argument(
        "--top-requests", metavar="N", type=_count, help="the requests that cost most"
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
    if since_ns is not None and until_ns is not None and since_ns >= until_ns:
        raise ConfigError("the period of the report is empty: --since must be before --until")
    if options.mtbf is not None and options.run is None:
        raise ConfigError("--mtbf is about the checkpoints of a run: name it with --run")
    others = [way for way in (options.run, options.request, options.top_requests) if way]
    if len(others) > 1:
        raise ConfigError("--run, --request and --top-requests are reports of their own")
    if others and as_of_ns is not None:
        raise ConfigError("--run, --request and --top-requests say what is known now, not --as-of")
    if options.run is not None:
        sys.stdout.write(_one_run(options, since_ns, until_ns, clock))
        return 0
    if options.request is not None or options.top_requests is not None:
        sys.stdout.write(_requests(options, since_ns, until_ns, clock))
        return 0
    by = tuple(dict.fromkeys(name.strip() for name in options.by.split(",") if name.strip()))
    with open_ledgers(ledgers_of(options), clock) as ledger:
        found = report(
            ledger,
            since_ns,
            until_ns,
            by,
            as_of_unix_ns=as_of_ns,
            top=options.top,
            loading=_loading(options.loaded),
        )
        runs = run_report([ledger], since_ns, until_ns) if "run" in by else None
    if options.format == "csv":
        sys.stdout.write(report_csv(found))
    elif options.format == "json":
        sys.stdout.write(report_json(found, None if runs is None else run_documents(runs)))
    else:
        sys.stdout.write(report_text(found))
        if runs is not None and runs.runs:
            sys.stdout.write(f"\n{run_table(runs)}")
    return 0


def _loading(policy: str | None) -> Loading | None:
    return None if policy is None else Loading(policy)


def _one_run(
    options: argparse.Namespace, since_ns: int | None, until_ns: int | None, clock: Clock
) -> str:
    mtbf_s = None if options.mtbf is None else options.mtbf.ns / NS_PER_SECOND
    with contextlib.ExitStack() as stack:
        ledgers = [
            stack.enter_context(LedgerReader.of(location, clock=clock))
            for location in ledgers_of(options)
        ]
        found = run_report(ledgers, since_ns, until_ns, run=options.run, mtbf_s=mtbf_s)
    renderers = {"table": run_text, "json": run_json, "csv": run_csv}
    return renderers[options.format](found)


def _requests(
    options: argparse.Namespace, since_ns: int | None, until_ns: int | None, clock: Clock
) -> str:
    renderers = {"table": request_text, "json": request_json, "csv": request_csv}
    with open_ledgers(ledgers_of(options), clock) as ledger:
        if options.request is not None:
            found = request_report(ledger, options.request, since_ns, until_ns)
        else:
            number = options.top_requests
            found = top_requests(ledger, number, since_ns, until_ns)
            renderers["table"] = requests_table
    return renderers[options.format](found)


COMMAND = Command("Reports metered cost, energy, requests, steps and tokens.", _configure, _run)
