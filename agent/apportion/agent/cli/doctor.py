"""`apportion doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import argparse
import os
import sys

from apportion.agent.cli.command import Command
from apportion.agent.cli.config_options import add_config_options, config_of
from apportion.agent.cli.listing import add_format, render
from apportion.agent.doctor import Level, examine
from apportion.core.clock import SystemClock


def _configure(parser: argparse.ArgumentParser) -> None:
    add_format(parser)
    add_config_options(parser)


def _run(options: argparse.Namespace) -> int:
    findings = examine(config_of(options), SystemClock(), uid=os.geteuid())
    rows = [
        {
            "level": finding.level.value,
            "check": finding.check,
            "found": finding.found,
            "remedy": finding.remedy,
        }
        for finding in findings
    ]
    sys.stdout.write(render(rows, ("level", "check", "found", "remedy"), options.format))
    return 1 if any(finding.level is Level.FAIL for finding in findings) else 0


COMMAND = Command(
    "Examines this machine for the agent. Exit status 1: something fails.", _configure, _run
)
