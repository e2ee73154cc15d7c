"""tests/conftest.py: what is missing skips by name, and with CI=true it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NEEDY = """
import pytest

@pytest.mark.{need}
def test_needy():
    pass
"""


def outcome(repository: Path, tmp_path: Path, need: str, ci: str) -> tuple[int, str]:
    """Run one needy test under a copy of the conftest: pytest's exit status and its output."""
    folder = tmp_path / "tests"
    folder.mkdir()
    shutil.copy(repository / "tests" / "conftest.py", folder)
    (folder / "test_needy.py").write_text(NEEDY.format(need=need))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        ('needs_program("no-such-program")', "the program no-such-program is not on PATH"),
        ('needs_module("no_such_module")', "the module no_such_module is not installed"),
    ],
)
@pytest.mark.parametrize(
    ("ci", "status", "word"), [("false", 0, "1 skipped"), ("true", 1, "1 err")]
)
def test_missing_need_is_named(
    repository: Path, tmp_path: Path, need: str, reason: str, ci: str, status: int, word: str
) -> None:
    """Where CI promises that all is there, a skip would hide a missing install step."""
    returned, said = outcome(repository, tmp_path, need, ci)

    assert returned == status
    assert reason in said
    assert word in said


def test_present_need_runs(repository: Path, tmp_path: Path) -> None:
    """A need that is met costs a test nothing."""
    returned, said = outcome(repository, tmp_path, 'needs_program("sh")', "true")

    assert returned == 0
    assert "1 passed" in said
