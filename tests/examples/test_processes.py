"""The demo's processes: what it starts it ends, and what fails says why."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def processes(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module under test, found as the demo finds it."""
    monkeypatch.setattr(sys, "path", [str(repository / "examples"), *sys.path])
    return importlib.import_module("processes")


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_stubborn_child_and_its_own_children_are_ended(
    processes: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    """Nothing outlives the demo, not even what ignores SIGTERM or was started by a child."""
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    children = processes.Processes(tmp_path)
    child = children.start("stubborn", _python(STUBBORN), os.environ)
    eventually(lambda: bool(child.lines()))
    grandchild = int(child.lines()[0])
    assert _alive(child.pid)
    assert _alive(grandchild)
    children.close()
    assert not _alive(child.pid)
    eventually(lambda: not _alive(grandchild))


def test_a_failure_carries_what_the_child_wrote(
    processes: Any, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    """A process that dies is reported with its status and its last words."""
    children = processes.Processes(tmp_path)
    child = children.start("engine", _python("import sys; sys.exit('no fuel')"), os.environ)
    eventually(lambda: not child.running())
    with pytest.raises(processes.ChildFailedError, match=r"(?s)engine.*status 1.*no fuel"):
        child.require_running()
    with pytest.raises(processes.ChildFailedError, match="no fuel"):
        child.require_success()
    children.close()


def test_a_good_end_is_no_failure(processes: Any, tmp_path: Path) -> None:
    """A child that ends with status 0 has succeeded, and its whole lines can be read."""
    children = processes.Processes(tmp_path)
    child = children.start("quick", _python("print('one'); print('half', end='')"), os.environ)
    child.require_success()
    assert child.lines() == ["one"]
    children.close()
