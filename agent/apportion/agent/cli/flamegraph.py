"""`apportion flamegraph`: stacks as pictures and files, compared, and by frame."""

from __future__ import annotations

from apportion.agent.cli.actions import Action, command_of
from apportion.agent.cli.flamegraph_build import configure_build, run_build
from apportion.agent.cli.flamegraph_diff import configure_diff, run_diff
from apportion.agent.cli.flamegraph_top import configure_top, run_top

COMMAND = command_of(
    "Flame graphs of profiles: time, energy or money.",
    {
        "build": Action("one flame graph of all files given", configure_build, run_build),
        "diff": Action("what became more (red) and less (blue)", configure_diff, run_diff),
        "top": Action("the frames that weigh most", configure_top, run_top),
    },
)
