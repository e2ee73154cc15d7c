"""`apportion check-config`: the configuration in force, where each key was set, what is wrong."""

from __future__ import annotations

import argparse
import sys

from apportion.agent.cli.command import Command
from apportion.agent.cli.config_options import add_config_options, config_of
from apportion.agent.cli.listing import add_format, render
from apportion.agent.config_problems import config_problems


def _configure(parser: argparse.ArgumentParser) -> None:
    add_format(parser)
    add_config_options(parser)


def _run(options: argparse.Namespace) -> int:
    loaded = config_of(options)
    rows = [
        {"key": key, "value": value, "origin": loaded.origins[key]}
        for key, value in loaded.config.effective().items()
    ]
    sys.stdout.write(render(rows, ("key", "value", "origin"), options.format))
    for warning in loaded.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    problems = config_problems(loaded)
    for problem in problems:
        sys.stderr.write(f"problem: {problem}\n")
    return 1 if problems else 0


COMMAND = Command(
    "Prints the configuration in force, without secrets. Exit status 1: it has problems.",
    _configure,
    _run,
)
