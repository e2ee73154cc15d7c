"""`apportion flamegraph build`: one flame graph of all files given."""

from __future__ import annotations

import argparse
from pathlib import Path

from apportion.agent.cli.flamegraph_inputs import FILES, add_choices, stacks_of
from apportion.agent.cli.flamegraph_output import Graph, add_output, checked_out, write


def configure_build(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=f"{FILES}; packed by gzip or not; added up",
    )
    add_choices(parser)
    add_output(parser, "Flame graph")


def run_build(options: argparse.Namespace) -> int:
    """Write it; the exit status."""
    form = checked_out(options)
    stacks = stacks_of(options, options.files)
    row = stacks.weight(options.weight)
    write(options, form(Graph(stacks, row, options.title, options.min_width)))
    return 0
