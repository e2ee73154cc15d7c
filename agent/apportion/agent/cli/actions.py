"""Commands of several actions, such as `prices quote` and `prices check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from apportion.agent.cli.command import Command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping


class Action(NamedTuple):
    """One of them; `help` is a phrase without a capital and a full stop."""

    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def command_of(description: str, actions: Mapping[str, Action]) -> Command:
    """The command whose first word is the name of an action."""

    def configure(parser: argparse.ArgumentParser) -> None:
        added = parser.add_subparsers(dest="action", required=True, title="actions")
        for name, action in actions.items():
            described = f"{action.help.capitalize()}."
            action.configure(added.add_parser(name, help=action.help, description=described))

    def run(options: argparse.Namespace) -> int:
        return actions[options.action].run(options)

    return Command(description, configure, run)
