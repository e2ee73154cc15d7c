"""`apportion trace`: what profilers' traces say about steps, communication and bounds."""

from __future__ import annotations

from apportion.agent.cli.actions import Action, command_of
from apportion.agent.cli.trace_breakdown import configure_breakdown, run_breakdown
from apportion.agent.cli.trace_comm import configure_comm, run_comm
from apportion.agent.cli.trace_roofline import configure_roofline, run_roofline

COMMAND = command_of(
    "Analyses traces of torch.profiler, Nsight Systems and Nsight Compute.",
    {
        "breakdown": Action("what each step's time went to", configure_breakdown, run_breakdown),
        "comm": Action("what was communicated, how fast, and who waited", configure_comm, run_comm),
        "roofline": Action(
            "how near it came to what its device can do", configure_roofline, run_roofline
        ),
    },
)
