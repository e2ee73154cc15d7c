"""`apportion flamegraph build`: one flame graph of all files given."""

from __future__ import annotations

import argparse
from pathlib import Path

from apportion.agent.cli.flamegraph_filter import add_ledger_filter, is_priced
from apportion.agent.cli.flamegraph_inputs import (
    FILES,
    FoundStacks,
    add_choices,
    stacks_of,
    status_of,
)
from apportion.agent.cli.flamegraph_output import Graph, add_output, checked_out, write
from apportion.core.errors import ConfigError


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
    found = _found(options)
    row = found.stacks.weight(options.weight)
    write(options, form(Graph(found.stacks, row, options.title, options.min_width)))
    return status_of(found)


def _found(options: argparse.Namespace) -> FoundStacks:
    is_asked = is_priced(options)
    if options.files and options.profile:
        raise ConfigError(
            "FILE is of everything that is chosen, --profile of one workload: not both"
        )
    if not is_asked:
        if not options.files:
            raise ConfigError("name a FILE, or a --ledger")
        return stacks_of(options, options.files)
    from apportion.agent.cli.flamegraph_ledger import (  # noqa: PLC0415 - of the extra `agent`
        priced_by_ledger,
        whole_ledger,
    )

    return priced_by_ledger(options) if options.files else whole_ledger(options)
