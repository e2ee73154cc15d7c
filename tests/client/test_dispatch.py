"""The `apportion` command where the agent is installed and where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from apportion.client import dispatch
from apportion.client.session import client_version

BARE = """
import sys
for name in ("fastapi", "numpy", "prometheus_client", "pydantic", "sqlalchemy", "yaml"):
    sys.modules[name] = None
from apportion.client.dispatch import main
sys.exit(main(sys.argv[1:]))
"""
"""An environment that has the distribution and nothing of its extra."""


def bare(*argv: str) -> subprocess.CompletedProcess[str]:
    """The command in the base install."""
    return subprocess.run(
        [sys.executable, "-c", BARE, *argv],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version needs no extra."""
    assert 0 == dispatch.main(["--version"])
    assert capsys.readouterr().out.startswith("apportion ")
    assert client_version() == client_version().strip()


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_without_the_extra(argument: str) -> None:
    """Help needs no extra."""
    done = bare(argument)
    assert (0, "") == (done.returncode, done.stderr)
    assert "COMMAND" in done.stdout


def test_a_command_without_the_extra() -> None:
    """A command that cannot run names the extra that it needs, in one line, with status 2."""
    done = bare("report")
    assert (2, "") == (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    assert "pip install 'apportion[agent]'" in line


def test_a_door_without_the_extra(tmp_path: Path) -> None:
    """The door for SGLang's logs is in the base install: it runs beside the server."""
    done = bare("sglang", "--log", f"chat={tmp_path}", "--ring-dir", str(tmp_path / "missing"))
    assert (2, "") == (done.returncode, done.stdout)
    assert "start the agent first" in done.stderr


def test_run_without_the_extra() -> None:
    """What measures a program is in the base install."""
    done = bare("run", "--", sys.executable, "-c", "print('ran')")
    assert (0, "ran\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_command_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments and exit status go through unchanged."""
    cli = ModuleType("apportion.agent.cli")
    seen: list[list[str]] = []

    def main(argv: list[str]) -> int:
        seen.append(argv)
        return 7

    monkeypatch.setattr(cli, "main", main, raising=False)
    monkeypatch.setitem(sys.modules, "apportion.agent.cli", cli)
    assert 7 == dispatch.main(["report", "--format", "json"])
    assert [["report", "--format", "json"]] == seen
