"""Finds the command that was asked for, runs it, and turns refusals into one line.

Exit status: 0 done, 1 done and something is wrong (an audit that is not clean, a failed check),
2 refused (wrong usage, configuration or input).
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from apportion.core.errors import ApportionError

PROGRAM: Final = "apportion"
MODULES: Final = {
    "agent": "run the daemon",
    "report": "what it cost, and who caused it",
    "prices": "import, list, quote, compare, check and apply price tables",
    "replay": "apportion a recorded trace, without an agent",
    "trace": "divide profilers' traces: steps, communication, roofline",
    "flamegraph": "draw, compare and rank profiles' stacks: time, energy, money",
    "profile": "sample a running process, once or continuously, and list what was taken",
    "audit": "prove that the ledger adds up, to the unit",
    "ledger": "create, migrate, look at, back up or restore a ledger",
    "once": "run one collector once and print what it read",
    "release": "let go of the GPUs for a while, so that one can be reset",
    "doctor": "say what works on this machine and what to do about the rest",
    "check-config": "print the configuration in force and where each key was set",
}
"""The commands and their help; each is a module of this package, imported when it is asked for."""
ELSEWHERE: Final = {
    "otlp": "take OpenTelemetry spans as requests, in a process of its own",
    "run": "run a PyTorch program, each of whose optimizer steps is measured without an edit",
    "sglang": "take the requests in SGLang's logs, in a process of its own",
    "simulator": "run SIMULATED GPUs for tests and demos, and give them faults",
}
"""Commands of `apportion` that are no part of the agent: the dispatcher runs them."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@dataclass(frozen=True, slots=True)
class Command:
    """What a command's module defines as `COMMAND`."""

    description: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `apportion <argv>`; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        name, rest = _chosen(arguments)
        command = _load(name)
        parser = argparse.ArgumentParser(
            prog=f"{PROGRAM} {name}", description=command.description, allow_abbrev=False
        )
        command.configure(parser)
        status = command.run(parser.parse_args(rest))
        sys.stdout.flush()
    except SystemExit as ended:  # argparse: help, or wrong usage
        return ended.code if isinstance(ended.code, int) else 2
    except ApportionError as refusal:
        sys.stderr.write(f"{PROGRAM}: {refusal}\n")
        return 2
    except BrokenPipeError:
        # Whoever read our output has gone; so that Python does not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        sys.stderr.write(f"{PROGRAM}: cannot write: {error.strerror}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _chosen(arguments: list[str]) -> tuple[str, list[str]]:
    if arguments and arguments[0] in MODULES:
        return arguments[0], arguments[1:]
    known = {**MODULES, **ELSEWHERE}
    width = max(map(len, known))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in known.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"commands:\n{listed}\n\n`{PROGRAM} COMMAND --help` describes one.",
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=tuple(MODULES), metavar="COMMAND")
    options, rest = parser.parse_known_args(arguments)
    return str(options.command), rest


def _load(name: str) -> Command:
    module = importlib.import_module(f"apportion.agent.cli.{name.replace('-', '_')}")
    command = module.COMMAND
    if not isinstance(command, Command):
        raise TypeError(f"{module.__name__}.COMMAND is not a Command")
    return command
