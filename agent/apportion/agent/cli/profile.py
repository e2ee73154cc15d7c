"""`apportion profile`: what a running process does, from outside, and what was taken so far."""

from __future__ import annotations

from apportion.agent.cli.actions import Action, command_of
from apportion.agent.cli.profile_continuous import configure_continuous, run_continuous
from apportion.agent.cli.profile_cpu import configure_cpu, run_cpu
from apportion.agent.cli.profile_gpu import configure_gpu, run_gpu
from apportion.agent.cli.profile_list import configure_list, run_list

COMMAND = command_of(
    "Takes profiles of running processes.",
    {
        "cpu": Action("sample a Python process once, by py-spy", configure_cpu, run_cpu),
        "continuous": Action(
            "sample it again and again, in short bursts", configure_continuous, run_continuous
        ),
        "gpu": Action(
            "a trace of torch.profiler of some steps of a trainer", configure_gpu, run_gpu
        ),
        "list": Action("what was taken, by whom, and what failed", configure_list, run_list),
    },
)
