"""`apportion run`: what it does to a command, and what it will not try."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.client.decoded import only
from tests.client.test_optimizer_steps import FAKE

from apportion.client import dispatch, layout
from apportion.client.run import STARTUP, workload_of

PROGRAM = """
import os, signal, sys
assert "apportion.client" not in sys.modules
assert sys.argv[1:] == ["--lr", "1"]
assert sys.path[0] == os.path.dirname(os.path.abspath(__file__))
import sitecustomize
assert sitecustomize.WHOSE == "the user's"
from torch.optim.optimizer import Optimizer
adam = Optimizer()
adam.step()
adam.step()
if os.environ["END"] == "exit":
    sys.exit(7)
os.kill(os.getpid(), signal.SIGTERM)
"""


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "apportion.client.dispatch", "run", *command],
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("end", "status"), [("exit", 7), ("kill", -signal.SIGTERM)])
def test_a_program_without_an_edit(tmp_path: Path, end: str, status: int) -> None:
    """Its steps are measured; its path, arguments, sitecustomize and end are as without us."""
    package = tmp_path / "site" / "torch" / "optim"
    package.mkdir(parents=True)
    (package / "optimizer.py").write_text(FAKE)
    (package / "__init__.py").touch()
    (package.parent / "__init__.py").touch()
    (tmp_path / "site" / "sitecustomize.py").write_text('WHOSE = "the user\'s"\n')
    program = tmp_path / "pretrain.py"
    program.write_text(PROGRAM)
    rings = tmp_path / "rings"
    rings.mkdir()
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])
    words = ["--run", "run-1", "--", sys.executable, "-W", "error", str(program), "--lr", "1"]
    done = run(*words, PYTHONPATH=path, END=end, APPORTION_RING_DIR=str(rings))
    assert (status, "", "") == (done.returncode, done.stdout, done.stderr)
    ring = only(rings)
    assert ("pretrain", "run-1") == (ring.identity["workload"], ring.identity["run"])
    assert [1, 2] == [each["step"] for each in ring.records if each["status"] == 1]
    assert (end == "exit") == bool(ring.header["closed_ns"])
    assert [3] * (end == "kill") == [each["step"] for each in ring.open_slots]
    assert layout.KINDS["step"] == ring.records[0]["kind"]


def test_a_python_without_us(tmp_path: Path) -> None:
    """Where torch is imported it says once that nothing is measured; elsewhere nothing."""
    (tmp_path / "torch.py").touch()
    program = "import sys; sys.modules['apportion'] = None; import torch"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.pathsep.join([str(STARTUP), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode
    (line,) = done.stderr.splitlines()
    assert "nothing is measured: install apportion there" in line


@pytest.mark.parametrize(
    ("command", "status", "problem"),
    [
        (["no-such-command"], 127, "no-such-command is no command here"),
        (["/etc/passwd"], 126, "/etc/passwd may not be executed"),
        (["python3", "-I", "train.py"], 2, "-I reads no PYTHONPATH"),
        (["python3", "-uE", "train.py"], 2, "-E reads no PYTHONPATH"),
        (["python3", "-Werror", "-X", "dev", "-S", "train.py"], 2, "-S imports no sitecustomize"),
    ],
)
def test_what_cannot_work_is_refused(
    command: list[str],
    status: int,
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one line that says why, with the status that a shell would have."""
    assert status == dispatch.main(["run", *command])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("apportion run: ")
    assert problem in line


@pytest.mark.parametrize(
    "interpreter",
    [
        f"{sys.executable} -Es",
        "/usr/bin/env -S python3 -E",
        "/usr/bin/env -S -i LANG=C python3 -E",
        "/usr/bin/env -iSpython3 -E",
        "/usr/bin/env -Spython3 -u -E",
        "/usr/bin/env --split-string=python3 -E",
        "/usr/bin/env -u HOME -vS python3 -E",
    ],
)
def test_a_script_that_cannot_see_us_is_refused(
    interpreter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its first line, however env is asked to split it; what it leaves alone is run."""
    script = tmp_path / "script"
    script.write_text(f"#!{interpreter}\n")
    script.chmod(0o755)
    assert dispatch.main(["run", "--", str(script)]) == 2
    assert "-E reads no PYTHONPATH" in capsys.readouterr().err


def test_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage, and status 2."""
    with pytest.raises(SystemExit) as left:
        dispatch.main(["run", "--workload", "x"])
    assert 2 == left.value.code
    assert "what is to be run?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python train.py --config I.py", "train"),
        ("torchrun --nproc-per-node 8 src/pretrain.py", "pretrain"),
        ("python -m torchtitan.train", "torchtitan.train"),
        ("python -m torch.distributed.run --nproc-per-node 8 src/pretrain.py", "pretrain"),
        ("python -m torch.distributed.run -m torchtitan.train", "torchtitan.train"),
        ("/opt/bin/litgpt pretrain", "litgpt"),
    ],
)
def test_the_name_of_a_workload(command: str, name: str) -> None:
    """Without one by the user it is the script's, which tells more than `unnamed`."""
    assert name == workload_of(command.split())


def test_options_behind_the_script_are_its_own(tmp_path: Path) -> None:
    """An -I that the program itself takes is no reason to refuse."""
    program = tmp_path / "program.py"
    program.write_text("import sys; print(sys.argv[1])")
    done = run(sys.executable, str(program), "-I")
    assert (0, "-I\n", "") == (done.returncode, done.stdout, done.stderr)
