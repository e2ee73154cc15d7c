"""`apportion flamegraph`: stacks as pictures and files, compared, and by frame."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, NamedTuple

from apportion.agent.cli.command import Command
from apportion.agent.cli.flamegraph_build import configure_build, run_build
from apportion.agent.cli.flamegraph_diff import configure_diff, run_diff
from apportion.agent.cli.flamegraph_top import configure_top, run_top


class _Action(NamedTuple):
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


_ACTIONS: Final = {
    "build": _Action("one flame graph of all files given", configure_build, run_build),
    "diff": _Action("what became more (red) and less (blue)", configure_diff, run_diff),
    "top": _Action("the frames that weigh most", configure_top, run_top),
}


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, title="actions")
    for name, action in _ACTIONS.items():
        action.configure(
            actions.add_parser(name, help=action.help, description=f"{action.help.capitalize()}.")
        )


def _run(options: argparse.Namespace) -> int:
    return _ACTIONS[options.action].run(options)


COMMAND = Command("Flame graphs of profiles: time, energy or money.", _configure, _run)
