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
    """One command: real workloads, their cost, a clean audit, and nothing left behind.

    With KEEP=1 it runs until a signal, which must not keep it from any of that.
    """
    with subprocess.Popen(
        [sys.executable, repository / "examples" / "demo.py"],
        env=_environment(tmp_path, KEEP="1"),
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
    said = "".join(lines)
    assert demo.returncode == 0, said
    assert "$ apportion report" in said
    assert "$ apportion audit" in said
    for name in ("gpt-pretrain", "lm-server", "search", "chat", "/metrics", "/healthz"):
        assert name in said
    if not Path("/proc/driver/nvidia/version").exists():
        assert "SIMULATED" in said
    assert "are those that the workloads report" in said
    assert list(tmp_path.glob("apportion-*")) == []
    assert _leftovers(tmp_path) == []
