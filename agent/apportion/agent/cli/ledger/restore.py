"""`apportion ledger restore`: a backup becomes the ledger, where there is none."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apportion.agent.cli.ledger.action import Action
from apportion.agent.cli.ledger_option import add_ledger, ledger_of
from apportion.cost.ledger.backup import restore


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="what `ledger backup` made")
    add_ledger(parser)


def _run(options: argparse.Namespace) -> int:
    location = ledger_of(options)
    size = restore(options.file, location)
    sys.stdout.write(f"{location}: {size} bytes from {options.file}\n")
    return 0


ACTION = Action(
    "copy a backup to where the ledger was; nothing is written over, and no agent may run",
    _configure,
    _run,
)
