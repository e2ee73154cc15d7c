"""`apportion flamegraph build`: one flame graph of all files given."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from apportion.agent.cli.flamegraph_choices import FILES, add_choices, unit_of
from apportion.agent.cli.flamegraph_filter import add_ledger_filter, is_priced
from apportion.agent.cli.flamegraph_output import add_output, checked_out, least_share, write
from apportion.core.errors import ConfigError, ProfileTraceError
from apportion.profiles.flame_page import flame_page
from apportion.profiles.flame_svg import flame_svg
from apportion.profiles.folded_text import folded_stacks
from apportion.profiles.folded_tree import folded_tree
from apportion.profiles.stack_stream import is_folded_text, opened

if TYPE_CHECKING:
    from apportion.agent.cli.flamegraph_inputs import FoundStacks

_DRAWN = {".svg": flame_svg, ".html": flame_page}


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
    drawn = _drawn_at_once(options, form)
    if drawn is not None:
        write(options, drawn)
        return 0
    from apportion.agent.cli.flamegraph_graph import Graph  # noqa: PLC0415 - numpy takes long
    from apportion.agent.cli.flamegraph_inputs import status_of  # noqa: PLC0415 - as above

    found = _found(options)
    row = found.stacks.weight(options.weight)
    graph = Graph(found.stacks, row, options.title, options.min_width)
    write(options, graph.written(form))
    return status_of(found)


def _drawn_at_once(options: argparse.Namespace, form: str) -> bytes | None:
    """A picture of folded text alone, which needs neither columns nor numpy; else None.

    What is wrong with a file is left to those who say it.
    """
    unit = unit_of(options)
    chosen = (options.steps, options.costliest_steps)
    if form not in _DRAWN or is_priced(options) or any(one is not None for one in chosen):
        return None
    if options.weight not in {None, unit.name} or not options.files:
        return None
    if not all(map(is_folded_text, options.files)):
        return None
    try:
        stacks = (one for path in options.files for one in _folded(path))
        tree = folded_tree(stacks, unit, least_share(form, options.min_width))
    except (ProfileTraceError, OSError, EOFError):
        return None
    return _DRAWN[form](tree, options.title).encode()


def _folded(path: Path) -> Iterator[tuple[str, int]]:
    with opened(path) as stream:
        yield from folded_stacks(stream, str(path))


def _found(options: argparse.Namespace) -> FoundStacks:
    from apportion.agent.cli.flamegraph_inputs import read_files, stacks_of  # noqa: PLC0415

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

    if not options.files:
        return whole_ledger(options)
    return priced_by_ledger(options, read_files(options, options.files))
