"""The command itself: it finds the action."""

from __future__ import annotations

import argparse
import importlib
from typing import Final

from apportion.agent.cli.command import Command
from apportion.agent.cli.ledger.action import Action

ACTIONS: Final = ("migrate", "info", "rollup", "backup", "restore", "vacuum", "export")


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name in ACTIONS:
        action = _action(name)
        added = actions.add_parser(
            name, help=action.text, description=action.text, allow_abbrev=False
        )
        action.configure(added)


def _run(options: argparse.Namespace) -> int:
    return _action(options.action).run(options)


def _action(name: str) -> Action:
    module = importlib.import_module(f"apportion.agent.cli.ledger.{name}")
    action = module.ACTION
    if not isinstance(action, Action):
        raise TypeError(f"{module.__name__}.ACTION is not an Action")
    return action


COMMAND = Command("Looks after ledgers. Agents never migrate by themselves.", _configure, _run)
