"""`apportion ledger rollup`: what the agent does every minute, for a ledger without one."""

from __future__ import annotations

import argparse
import sys

from apportion.agent.cli.ledger.action import Action
from apportion.agent.cli.ledger_option import add_ledger, ledger_of
from apportion.cost.ledger.engine import ledger_url, open_engine
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.rollups.roll import Roller


def _run(options: argparse.Namespace) -> int:
    location = ledger_of(options)
    with LedgerReader.of(location) as ledger:
        name = ledger.name
    url = ledger_url(location)
    engine, reading = open_engine(url), open_engine(url, read_only=True)
    try:
        pieces = Roller(engine, name, reading=reading).run()
    finally:
        for each in (engine, reading):
            each.dispose()
    sys.stdout.write(f"rolled up in {pieces} pieces\n" if pieces else "already rolled up\n")
    return 0


ACTION = Action(
    "add the lines, settlements and spans up by hour, day and week; an agent does it by itself, "
    "and may run meanwhile",
    add_ledger,
    _run,
)
