"""`apportion run -- python train.py`: a PyTorch program measured without an edit of it.

The command takes this process's place, so that its signals and exit status are its own. Its
environment has a folder at the front of PYTHONPATH whose `sitecustomize` installs the hooks, in
whatever Python the command starts: launchers pass it on to their ranks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

STARTUP: Final = Path(__file__).parent / "startup"
_REFUSED, _NOT_EXECUTABLE, _NOT_FOUND = 2, 126, 127
"""Exit statuses: as a shell's where it cannot run a command."""
_BLIND: Final = {
    "E": "reads no PYTHONPATH",
    "I": "reads no PYTHONPATH",
    "S": "imports no sitecustomize",
}
"""Options of Python with which the program never sees us."""
_LAUNCHERS: Final = frozenset(
    {"torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch"}
)
"""Modules that start a script, which says more than they."""
_WITH_ARGUMENT: Final = "WX"
_ENV_WITH_ARGUMENT: Final = "uC"
_LAST: Final = "cm"
"""Options that end Python's own."""


def main(argv: Sequence[str]) -> int:
    """Become the command; returns an exit status only where that cannot be."""
    parser = argparse.ArgumentParser(
        prog="apportion run",
        usage="apportion run [--workload NAME] [--run NAME] [--] COMMAND ...",
        description="Run a PyTorch program; each optimizer.step() is a step, without an edit.",
    )
    parser.add_argument(
        "--workload", metavar="NAME", help="else $APPORTION_WORKLOAD, or its script"
    )
    parser.add_argument("--run", metavar="NAME", help="one job over its restarts")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    command: list[str] = options.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        parser.error("what is to be run?")
    program = shutil.which(command[0])
    if program is None:
        there = Path(command[0]).exists()
        problem = "may not be executed" if there else "is no command here"
        return _refuse(f"{command[0]} {problem}", _NOT_EXECUTABLE if there else _NOT_FOUND)
    for words in (_shebang(program), command):
        option = _blind_option(words)
        if option is not None:
            return _refuse(
                f"Python's -{option} {_BLIND[option]}, so nothing would be measured: leave it out, "
                "or call apportion.client.torch_steps() in the program",
                _REFUSED,
            )
    try:
        os.execve(program, command, _environment(os.environ, options, command))  # noqa: S606
    except OSError as error:  # no interpreter, a text without one
        return _refuse(f"{program}: {error.strerror}", _NOT_EXECUTABLE)


def _refuse(problem: str, status: int) -> int:
    sys.stderr.write(f"apportion run: {problem}\n")
    return status


def _environment(
    environ: Mapping[str, str], options: argparse.Namespace, command: Sequence[str]
) -> dict[str, str]:
    """The command's: all of ours, our folder at the front of PYTHONPATH, and the names."""
    paths = [str(STARTUP), environ.get("PYTHONPATH")]
    named = {"APPORTION_WORKLOAD": options.workload, "APPORTION_RUN": options.run}
    return {
        "APPORTION_WORKLOAD": workload_of(command),
        **environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        **{name: value for name, value in named.items() if value},
    }


def workload_of(command: Sequence[str]) -> str:
    """The name of the first Python file in a command, or of the module after `-m`, or its own.

    A launcher that is a module is passed over: its script is the workload.
    """
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word.endswith(".py"):
            return Path(word).stem
        if word == "-m" and following and following not in _LAUNCHERS:
            return following
    return Path(command[0]).name


def _shebang(program: str) -> list[str]:
    """The interpreter's words of a script; none of anything else."""
    try:
        with Path(program).open("rb") as file:
            line = file.readline(256)
    except OSError:  # executable and not readable: no script
        return []
    words = line[2:].decode(errors="replace").split() if line.startswith(b"#!") else []
    if not words or Path(words[0]).name != "env":
        return words
    return _behind_env(words[1:])


def _behind_env(words: Sequence[str]) -> list[str]:
    """The command line behind `env`: what follows its options and its variables.

    The text that `-S` splits is split already.
    """
    rest = list(words)
    while rest and (rest[0].startswith("-") or "=" in rest[0]):
        word = rest.pop(0)
        option, _, text = word.partition("=")
        if option == "--split-string" and text:
            rest.insert(0, text)
        elif option in {"--unset", "--chdir"} and not text:
            del rest[:1]
        elif word.startswith("-") and not word.startswith("--"):
            _after_letters(word[1:], rest)
    return rest


def _after_letters(letters: str, rest: list[str]) -> None:
    """Take what short options of env need from `rest`, or give back what `-S` has in its word."""
    for place, letter in enumerate(letters, 1):
        if letter == "S":
            rest[:0] = [letters[place:]] if letters[place:] else []
            return
        if letter in _ENV_WITH_ARGUMENT:
            if place == len(letters):
                del rest[:1]
            return


def _blind_option(words: Sequence[str]) -> str | None:
    """The option of a Python command line with which nothing of ours is imported."""
    if not words or not Path(words[0]).name.startswith("python"):
        return None
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-") or word in {"-", "--"}:
            return None
        if word == "--check-hash-based-pycs":
            next(rest, None)
        if word.startswith("--"):
            continue
        for place, letter in enumerate(word[1:], 2):
            if letter in _BLIND:
                return letter
            if letter in _LAST:
                return None
            if letter in _WITH_ARGUMENT:
                if place == len(word):
                    next(rest, None)
                break
    return None
