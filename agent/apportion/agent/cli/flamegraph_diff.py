"""`apportion flamegraph diff`: what became more (red) and what less (blue)."""

from __future__ import annotations

import argparse
from pathlib import Path

from apportion.agent.cli.flamegraph_choices import FILES, add_choices
from apportion.agent.cli.flamegraph_output import FOLDED, add_output, checked_out, write
from apportion.core.errors import ConfigError
from apportion.profiles.flame_frames import BOTH


def configure_diff(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("before", type=Path, metavar="BEFORE", help=FILES)
    parser.add_argument("after", type=Path, metavar="AFTER", help=FILES)
    add_choices(parser)
    add_output(parser, "Difference of two flame graphs")
    parser.epilog = (
        "A frame is as wide as before and after together, so that what vanished is seen, too. "
        "Write .html or .svg, or .json for every figure."
    )


def run_diff(options: argparse.Namespace) -> int:
    """Write it; the exit status."""
    form = checked_out(options)
    if form == FOLDED:
        raise ConfigError(
            "a difference has two weights, which folded text cannot hold: --out FILE.html"
        )
    # `flamegraph build` of folded text does without numpy, and comes this way
    from apportion.agent.cli.flamegraph_graph import Graph  # noqa: PLC0415
    from apportion.agent.cli.flamegraph_inputs import stacks_of, status_of  # noqa: PLC0415
    from apportion.profiles.stack_difference import difference  # noqa: PLC0415

    before, after = (stacks_of(options, [path]) for path in (options.before, options.after))
    stacks = difference(before.stacks, after.stacks, options.weight)
    graph = Graph(stacks, BOTH, options.title, options.min_width, is_difference=True)
    write(options, graph.written(form))
    return status_of(before, after)
