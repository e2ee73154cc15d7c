"""`make demo` as a user runs it, only shorter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.needs_module("torch"),
    pytest.mark.needs_program("cc"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]


def _environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("APPORTION_")}
    inherited.pop("KEEP", None)
    # The simulator's cache stays where it is: the demo's own files all lie under TMPDIR.
    return {**inherited, "TMPDIR": str(tmp_path), **variables}


def _leftovers(tmp_path: Path) -> list[str]:
    """Processes whose environment says that they belong to the demo of this test."""
    mark = f"TMPDIR={tmp_path}".encode()
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_the_demo_shows_what_it_promises(repository: Path, tmp_path: Path) -> None:
    """One command: real workloads, their cost, a clean audit, and nothing left behind."""
    done = subprocess.run(
        [sys.executable, repository / "examples" / "demo.py"],
        env=_environment(tmp_path, DEMO_SECONDS="5"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "$ apportion report" in done.stdout
    assert "$ apportion audit" in done.stdout
    for name in ("gpt-pretrain", "lm-server", "search", "chat", "/metrics", "/healthz"):
        assert name in done.stdout
    if not Path("/proc/driver/nvidia/version").exists():
        assert "SIMULATED" in done.stdout
    assert "are those that the workloads report" in done.stdout
    assert list(tmp_path.glob("apportion-*")) == []
    assert _leftovers(tmp_path) == []


def test_it_stays_up_until_it_is_told_to_end(repository: Path, tmp_path: Path) -> None:
    """With KEEP=1 the demo runs until a signal, and then still reports and cleans up."""
    with subprocess.Popen(
        [sys.executable, repository / "examples" / "demo.py"],
        env=_environment(tmp_path, KEEP="1", DEMO_SECONDS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        lines: list[str] = []
        for line in demo.stdout:
            lines.append(line)
            if "metered so far" in line and len([x for x in lines if "metered so far" in x]) == 2:
                demo.send_signal(signal.SIGTERM)
    assert demo.returncode == 0, "".join(lines)
    assert any("$ apportion audit" in line for line in lines)
    assert list(tmp_path.glob("apportion-*")) == []
    assert _leftovers(tmp_path) == []
