"""`apportion trace`: what profilers' traces say about steps, communication and bounds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, NamedTuple

from apportion.agent.cli.command import Command
from apportion.agent.cli.trace_breakdown import configure_breakdown, run_breakdown
from apportion.agent.cli.trace_comm import configure_comm, run_comm
from apportion.agent.cli.trace_roofline import configure_roofline, run_roofline


class _Action(NamedTuple):
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


_ACTIONS: Final = {
    "breakdown": _Action("what each step's time went to", configure_breakdown, run_breakdown),
    "comm": _Action("what was communicated, how fast, and who waited", configure_comm, run_comm),
    "roofline": _Action(
        "how near it came to what its device can do", configure_roofline, run_roofline
    ),
}


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, title="actions")
    for name, action in _ACTIONS.items():
        action.configure(
            actions.add_parser(name, help=action.help, description=f"{action.help.capitalize()}.")
        )


def _run(options: argparse.Namespace) -> int:
    return _ACTIONS[options.action].run(options)


COMMAND = Command(
    "Analyses traces of torch.profiler, Nsight Systems and Nsight Compute.", _configure, _run
)
