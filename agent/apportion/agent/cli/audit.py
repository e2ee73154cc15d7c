"""`apportion audit`: prove that the ledger adds up, or point at the first fault."""

from __future__ import annotations

import argparse
import sys

from apportion.agent.cli.command import Command
from apportion.agent.cli.ledger_option import add_ledgers, ledgers_of
from apportion.agent.cli.listing import add_format, render
from apportion.cost.audit import audit, audit_json, audit_text
from apportion.cost.ledger.several import open_ledgers


def _configure(parser: argparse.ArgumentParser) -> None:
    add_ledgers(parser)
    add_format(parser)


def _run(options: argparse.Namespace) -> int:
    with open_ledgers(ledgers_of(options)) as ledger:
        result = audit(ledger)
    if options.format == "json":
        sys.stdout.write(audit_json(result))
    elif options.format == "csv":
        rows = [
            {
                "check": check.name,
                "holds": check.holds,
                "examined": check.examined,
                "unit": check.unit,
                "claim": check.claim,
                "finding": None if check.finding is None else str(check.finding),
            }
            for check in result.checks
        ]
        columns = ("check", "holds", "examined", "unit", "claim", "finding")
        sys.stdout.write(render(rows, columns, "csv"))
    else:
        sys.stdout.write(audit_text(result))
    return result.exit_code


COMMAND = Command(
    "Checks every line of the ledger against the meter. Exit status 1: it is not clean.",
    _configure,
    _run,
)
