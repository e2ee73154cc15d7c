"""`apportion doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from apportion.agent.acceptance import LONGEST_NS, Plan, accept, page
from apportion.agent.cli.command import Command
from apportion.agent.cli.config_options import add_config_options, config_of
from apportion.agent.cli.listing import add_format, render
from apportion.agent.config import AgentConfig
from apportion.agent.doctor import Level, examine
from apportion.agent.duration import Duration
from apportion.core.clock import SystemClock
from apportion.core.errors import ApportionError


def _configure(parser: argparse.ArgumentParser) -> None:
    add_format(parser)
    group = parser.add_argument_group("once on a node with GPUs, and again after an upgrade")
    plan = Plan()
    group.add_argument(
        "--accept",
        type=Path,
        metavar="DIR",
        help="hold our values against nvidia-smi's, measure the energy counters, phases and what "
        "the agent costs, and write acceptance.json and acceptance.md to DIR",
    )
    group.add_argument(
        "--accept-for",
        type=_duration,
        default=Duration(plan.duration_ns),
        metavar="TIME",
        help="about how long it takes, at most 15m (default: %(default)s)",
    )
    group.add_argument(
        "--accept-python",
        default=plan.python,
        metavar="PATH",
        help="an interpreter with PyTorch, for work on the GPU (default: this one)",
    )
    group.add_argument(
        "--accept-command",
        type=_words,
        default=(),
        metavar="CMD",
        help="work of your own in place of that; it must end",
    )
    group.add_argument(
        "--nvidia-smi", default=plan.nvidia_smi, metavar="PATH", help="(default: %(default)s)"
    )
    add_config_options(parser)


def _duration(text: str) -> Duration:
    try:
        duration = Duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not 0 < duration.ns <= LONGEST_NS:
        raise argparse.ArgumentTypeError(f"{text}: give more than 0 and at most 15m")
    return duration


def _words(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    if not words:
        raise argparse.ArgumentTypeError("give a command")
    return words


def _accept(options: argparse.Namespace, config: AgentConfig) -> int:
    folder: Path = options.accept
    plan = Plan(
        options.accept_for.ns,
        options.nvidia_smi,
        options.accept_python,
        options.accept_command,
    )
    if shutil.which(plan.nvidia_smi) is None:
        sys.stderr.write(
            f"{plan.nvidia_smi} is not here, so no value of ours is compared; the other parts are "
            "done. Name it with --nvidia-smi to compare.\n"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        document = accept(config, SystemClock(), plan)
        written = folder / "acceptance.md"
        (folder / "acceptance.json").write_text(f"{json.dumps(document, indent=1)}\n")
        written.write_text(page(document))
    except OSError as error:
        raise ApportionError(f"{error.filename or folder}: {error.strerror}") from error
    simulated = "SIMULATED: " if document["SIMULATED"] else ""
    agreed = sum(bool(row["agrees"]) for row in document["values"]["rows"])
    disagreements = document["disagreements"]
    sys.stdout.write(f"{simulated}{written}: {agreed} values agree, {disagreements} do not\n")
    if missing := document["values"]["missing"]:
        sys.stderr.write(f"values were not compared: {missing}\n")
    return 0 if agreed and not disagreements else 1


def _run(options: argparse.Namespace) -> int:
    if options.accept is not None:
        return _accept(options, config_of(options).config)
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
    "Examines this machine for the agent. Exit status 1: something fails, or does not agree.",
    _configure,
    _run,
)
