"""`apportion prices`: where prices come from, and what a device costs by which row."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, NamedTuple

from apportion.agent.cli.command import Command
from apportion.agent.cli.prices_apply import configure_apply, run_apply
from apportion.agent.cli.prices_check import configure_check, run_check
from apportion.agent.cli.prices_import import configure_import, run_import
from apportion.agent.cli.prices_owned import configure_owned, run_owned
from apportion.agent.cli.prices_show import (
    configure_diff,
    configure_list,
    configure_quote,
    run_diff,
    run_list,
    run_quote,
)


class _Action(NamedTuple):
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


_ACTIONS: Final = {
    "quote": _Action("what a device costs, and by which row", configure_quote, run_quote),
    "list": _Action("the rows of a table", configure_list, run_list),
    "check": _Action("what is doubtful about a table", configure_check, run_check),
    "diff": _Action("what two tables say differently", configure_diff, run_diff),
    "import": _Action("write a table from a price list", configure_import, run_import),
    "apply": _Action("price what was unpriced, and settled time anew", configure_apply, run_apply),
    "owned": _Action("what hardware of one's own costs", configure_owned, run_owned),
}


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, title="actions")
    for name, action in _ACTIONS.items():
        action.configure(
            actions.add_parser(name, help=action.help, description=f"{action.help.capitalize()}.")
        )


def _run(options: argparse.Namespace) -> int:
    return _ACTIONS[options.action].run(options)


COMMAND = Command("Reads, writes, compares and applies price tables.", _configure, _run)
