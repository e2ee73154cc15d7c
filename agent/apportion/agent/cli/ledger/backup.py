"""`apportion ledger backup`: a copy of one moment, looked through, beside a running agent."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apportion.agent.cli.ledger.action import Action
from apportion.agent.cli.ledger_option import add_ledger, ledger_of
from apportion.cost.audit import audit
from apportion.cost.ledger.backup import back_up
from apportion.cost.ledger.reader import LedgerReader


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the new file")
    parser.add_argument(
        "--no-audit",
        action="store_true",
        help="do not audit the copy, only look for damage: an audit of many millions of lines "
        "takes minutes",
    )
    add_ledger(parser)


def _run(options: argparse.Namespace) -> int:
    size = back_up(ledger_of(options), options.file)
    sys.stdout.write(f"{options.file}: {size} bytes, undamaged")
    if options.no_audit:
        sys.stdout.write("\n")
        return 0
    with LedgerReader.of(options.file) as copy:
        result = audit(copy)
    if result.first is None:
        sys.stdout.write(", and its books add up\n")
    else:
        sys.stdout.write(f", a true copy of books that do not add up: {result.first}\n")
    return result.exit_code


ACTION = Action(
    "copy the ledger to a new file, while an agent runs or not; exit status 1: the books that "
    "were copied do not add up",
    _configure,
    _run,
)
