"""`apportion flamegraph build`: one flame graph of all files given."""

from __future__ import annotations

import argparse
from pathlib import Path

from apportion.agent.cli.flamegraph_inputs import FILES, add_choices, stacks_of
from apportion.agent.cli.flamegraph_ledger import (
    add_ledger_filter,
    is_priced,
    priced_by_ledger,
    whole_ledger,
)
from apportion.agent.cli.flamegraph_output import Graph, add_output, checked_out, write
from apportion.core.errors import ConfigError
from apportion.profiles.stacks import Stacks


def configure_build(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help=f"{FILES}; packed by gzip or not; added up",
    )
    add_choices(parser)
    add_ledger_filter(parser)
    add_output(parser, "Flame graph")


def run_build(options: argparse.Namespace) -> int:
    """Write it; the exit status."""
    form = checked_out(options)
    stacks = _stacks(options)
    row = stacks.weight(options.weight)
    write(options, form(Graph(stacks, row, options.title, options.min_width)))
    return 0


def _stacks(options: argparse.Namespace) -> Stacks:
    is_asked = is_priced(options)
    if options.files and options.profile:
        raise ConfigError(
            "FILE is of everything that is chosen, --profile of one workload: not both"
        )
    if options.files:
        stacks = stacks_of(options, options.files, is_priced=is_asked)
        return priced_by_ledger(options, stacks) if is_asked else stacks
    if not is_asked:
        raise ConfigError("name a FILE, or a --ledger")
    return whole_ledger(options)
