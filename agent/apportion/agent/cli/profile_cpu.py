"""`apportion profile cpu`: one burst of py-spy."""

from __future__ import annotations

import argparse
import sys

from apportion.agent.cli.flamegraph_graph import Graph
from apportion.agent.cli.flamegraph_output import add_output, checked_out, write
from apportion.agent.cli.profile_burst import CpuBursts, add_burst
from apportion.agent.cli.said import say
from apportion.core.clock import SystemClock
from apportion.profiles.py_spy import PySpy


def configure_cpu(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_burst(parser)
    add_output(parser, "CPU", default="")
    parser.epilog = (
        "Sampling does not stop the process. What is kept can be drawn, compared and put in money "
        "with `apportion flamegraph`."
    )


def run_cpu(options: argparse.Namespace) -> int:
    """Take it; the exit status."""
    form = checked_out(options) if options.out else None
    taken = CpuBursts(options, PySpy(), SystemClock()).take()
    profile = taken.profile
    if form is not None:
        graph = Graph(profile.stacks, 0, options.title, options.min_width)
        write(options, graph.written(form))
        say([f"{options.out}: {graph.amount} in all"])
    late = ", late: the process or this machine is too busy for the rate" if profile.late else ""
    sys.stderr.write(
        f"process {taken.pid}: {profile.samples} samples, {profile.errors} torn{late}; py-spy used "
        f"{profile.cpu_s:.2f} s of CPU; kept as {taken.path}\n"
    )
    return 0
