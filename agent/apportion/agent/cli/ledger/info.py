"""`apportion ledger info`: how large a ledger is, what it holds from when on, and whose."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from apportion.agent.cli.ledger.action import Action
from apportion.agent.cli.ledger_option import add_ledger, ledger_of
from apportion.agent.cli.listing import add_format, render
from apportion.cost.figure_text import instant
from apportion.cost.ledger.info import LedgerInfo, ledger_info

if TYPE_CHECKING:
    from apportion.cost.ledger.info import AgentInfo

_COLUMNS = ("node", "cluster", "version", "currency", "devices")
_INSTANTS = ("since", "settled_until", "rolled_until", "kept_from")


def _configure(parser: argparse.ArgumentParser) -> None:
    add_ledger(parser)
    add_format(parser)


def _run(options: argparse.Namespace) -> int:
    found = ledger_info(ledger_of(options))
    if options.format == "json":
        document = {
            **found._asdict(),
            "bytes_per_day": found.bytes_per_day,
            "agents": [row._asdict() for row in found.agents],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return 0
    agents = [_row(row) for row in found.agents]
    if options.format == "table":
        sys.stdout.write("".join(f"{line}\n" for line in _head(found)))
    sys.stdout.write(render(agents, (*_COLUMNS, *_INSTANTS), options.format))
    return 0


def _head(found: LedgerInfo) -> list[str]:
    size = f"{found.size_bytes:,} bytes"
    if found.free_bytes:
        size += f", {found.free_bytes:,} of them free for new rows"
    if found.bytes_per_day is not None:
        size += f"; about {found.bytes_per_day:,} a day"
    counts = [f"{count:,} {table}" for table, count in found.rows.items() if count]
    return [
        f"Ledger {found.ledger}",
        f"  schema  {found.schema}",
        f"  size    {size}",
        f"  rows    {', '.join(counts) or 'none'}",
        "",
    ]


def _row(agent: AgentInfo) -> dict[str, object]:
    instants = {name: instant(getattr(agent, f"{name}_unix_ns")) for name in _INSTANTS}
    return {**agent._asdict(), **instants}


ACTION = Action(
    "say how large the ledger is, what it holds from when on, and whose", _configure, _run
)
