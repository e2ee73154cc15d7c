"""`apportion prices check`: whether a table is valid, and what is doubtful about it."""

from __future__ import annotations

import argparse
import sys

from apportion.agent.cli.price_table_option import add_table, table_of
from apportion.core.clock import SystemClock
from apportion.cost.prices.built_in import built_in_table
from apportion.cost.prices.doubts import doubts


def configure_check(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_table(parser)
    parser.epilog = (
        "A table that the agent would refuse is refused here, too, with exit status 2. Exit "
        "status 1: it is valid and something about it is doubtful."
    )


def run_check(options: argparse.Namespace) -> int:
    """Print each doubt with its line, and how many there are."""
    table, name, _ = table_of(options)
    found = doubts(table, built_in_table(), SystemClock().realtime_ns())
    for doubt in found:
        sys.stdout.write(f"{table.path}:{doubt.line}: {doubt.text}\n")
    rows, count = len(table.rates), len(found)
    sys.stdout.write(
        f"{name}: valid; {rows} row{'' if rows == 1 else 's'} in {table.currency}, "
        f"{count or 'no'} doubt{'' if count == 1 else 's'}\n"
    )
    return 1 if found else 0
