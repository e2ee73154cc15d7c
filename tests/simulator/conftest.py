"""The built library, and a way to ask it questions through the real nvidia-ml-py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apportion.simulator import environment

NVIDIA_ML_PY_ASK = """
import json
import pynvml as nvml

def code(function, *arguments):
    '''The error code that a call raises, 0 when it succeeds.'''
    try:
        function(*arguments)
    except nvml.NVMLError as error:
        return error.value
    return 0

"""

NVIDIA_ML_PY_PAUSE = """
def pause():
    '''Let the test do what it has to do meanwhile.'''
    print("paused", flush=True)
    input()

"""

Ask = Callable[[Path, str], Any]
AskTwice = Callable[[Path, str, Callable[[], None]], Any]


@pytest.fixture(scope="session")
def ask(library: Path) -> Ask:
    """Runs Python with nvidia-ml-py in a process of its own, whose `answer` comes back as JSON.

    A process of its own because a process keeps the first libnvidia-ml.so.1 that it loads.
    """

    def run(state: Path, program: str) -> Any:
        text = f"{NVIDIA_ML_PY_ASK}{textwrap.dedent(program)}\nprint(json.dumps(answer))"
        result = subprocess.run(
            [sys.executable, "-c", text],
            env={**os.environ, **environment(state, library)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="session")
def ask_twice(library: Path) -> AskTwice:
    """As `ask`, of a program that calls `pause()`: there the given function is called."""

    def run(state: Path, program: str, meanwhile: Callable[[], None]) -> Any:
        text = (
            f"{NVIDIA_ML_PY_ASK}{NVIDIA_ML_PY_PAUSE}{textwrap.dedent(program)}\n"
            "print(json.dumps(answer))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", text],
            env={**os.environ, **environment(state, library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        if process.stdout.readline() == "paused\n":
            meanwhile()
        output, _ = process.communicate("\n", timeout=60)
        assert process.returncode == 0
        return json.loads(output)

    return run


@pytest.fixture(scope="session")
def compile_and_run(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, list[str]], str]:
    """Compiles a C program with the given flags, runs it, and returns what it printed."""
    folder = tmp_path_factory.mktemp("programs")

    def run(source: str, flags: list[str]) -> str:
        number = len(list(folder.iterdir()))
        path = folder / f"program{number}.c"
        path.write_text(source)
        program = path.with_suffix("")
        command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(path)]
        subprocess.run([*command, *flags], check=True, timeout=60)
        return subprocess.run(
            [str(program)], check=True, capture_output=True, text=True, timeout=60
        ).stdout

    return run


@pytest.fixture(scope="session")
def nvml_include() -> Path:
    """The folder of NVIDIA's own nvml.h, from the PyPI package nvidia-nvml-dev."""
    for place in sys.path:
        for header in sorted(Path(place).glob("nvidia/*/include/nvml.h")):
            return header.parent
    reason = "nvml.h is not installed: pip install nvidia-nvml-dev"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
