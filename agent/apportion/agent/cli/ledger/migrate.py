"""`apportion ledger migrate`: create a ledger, or bring an old one to this release's schema."""

from __future__ import annotations

import argparse
import sys

from apportion.agent.cli.ledger.action import Action
from apportion.agent.cli.ledger_option import add_ledger, ledger_of
from apportion.cost.ledger.migration import migrate


def _run(options: argparse.Namespace) -> int:
    before, after = migrate(ledger_of(options))
    if before is None:
        sys.stdout.write(f"created with schema {after}\n")
    elif before == after:
        sys.stdout.write(f"already at schema {after}\n")
    else:
        sys.stdout.write(f"migrated from schema {before} to {after}\n")
    return 0


ACTION = Action(
    "create the ledger, or bring its schema to this release's in one transaction", add_ledger, _run
)
