"""`apportion profile`: what a running process does, from outside, and what was taken so far."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, NamedTuple

from apportion.agent.cli.command import Command
from apportion.agent.cli.profile_continuous import configure_continuous, run_continuous
from apportion.agent.cli.profile_cpu import configure_cpu, run_cpu
from apportion.agent.cli.profile_gpu import configure_gpu, run_gpu
from apportion.agent.cli.profile_list import configure_list, run_list


class _Action(NamedTuple):
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


_ACTIONS: Final = {
    "cpu": _Action("sample a Python process once, by py-spy", configure_cpu, run_cpu),
    "continuous": _Action(
        "sample it again and again, in short bursts", configure_continuous, run_continuous
    ),
    "gpu": _Action("a trace of torch.profiler of some steps of a trainer", configure_gpu, run_gpu),
    "list": _Action("what was taken, by whom, and what failed", configure_list, run_list),
}


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, title="actions")
    for name, action in _ACTIONS.items():
        action.configure(
            actions.add_parser(name, help=action.help, description=f"{action.help.capitalize()}.")
        )


def _run(options: argparse.Namespace) -> int:
    return _ACTIONS[options.action].run(options)


COMMAND = Command("Takes profiles of running processes.", _configure, _run)
