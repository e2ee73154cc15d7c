"""`apportion ledger vacuum`: the space of deleted rows goes back to the file system."""

from __future__ import annotations

import argparse
import sys

from apportion.agent.cli.ledger.action import Action
from apportion.agent.cli.ledger_option import add_ledger, ledger_of
from apportion.cost.ledger.backup import vacuum


def _run(options: argparse.Namespace) -> int:
    before, after = vacuum(ledger_of(options))
    sys.stdout.write(f"{before} bytes before, {after} after\n")
    return 0


ACTION = Action(
    "write the ledger's file anew without the space of deleted rows; no agent may run. It is "
    "seldom needed: that space is used again",
    add_ledger,
    _run,
)
