"""Where the demo's GPUs come from, and that simulated ones are never a silent stand-in."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def devices(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module under test, found as the demo finds it."""
    monkeypatch.setattr(sys, "path", [str(repository / "examples"), *sys.path])
    return importlib.import_module("devices")


def _python_that_prints(tmp_path: Path, text: str) -> str:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho '{text}'\n")
    program.chmod(0o755)
    return str(program)


def test_without_a_driver_the_gpus_are_simulated_for_a_reason(devices: Any, tmp_path: Path) -> None:
    """No driver means simulated devices, and the reason names the file that was looked for."""
    chosen = devices.choose_devices(tmp_path / "version")
    assert chosen.simulated
    assert str(tmp_path / "version") in chosen.reason
    assert chosen.trainer == chosen.server == {}


@pytest.mark.parametrize(
    ("printed", "names", "server"),
    [
        ('["NVIDIA L4"]', ("NVIDIA L4",), "0"),
        ('["NVIDIA L4", "NVIDIA L4"]', ("NVIDIA L4", "NVIDIA L4"), "1"),
    ],
)
def test_real_gpus_are_used_where_pytorch_can(
    devices: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    printed: str,
    names: tuple[str, ...],
    server: str,
) -> None:
    """With a driver the workloads get a GPU each, or share the only one."""
    monkeypatch.setattr(sys, "executable", _python_that_prints(tmp_path, printed))
    chosen = devices.choose_devices(Path(__file__))
    assert not chosen.simulated
    assert chosen.names == names
    assert chosen.trainer == {"CUDA_VISIBLE_DEVICES": "0"}
    assert chosen.server == {"CUDA_VISIBLE_DEVICES": server}


def test_a_driver_that_pytorch_cannot_use_is_said(
    devices: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU build of PyTorch on a GPU host would leave the GPUs idle: the reason says so."""
    monkeypatch.setattr(sys, "executable", _python_that_prints(tmp_path, "[]"))
    chosen = devices.choose_devices(Path(__file__))
    assert chosen.simulated
    assert "PyTorch" in chosen.reason


def test_the_simulators_variables_are_read_when_it_is_ready(devices: Any) -> None:
    """Quoted values survive, and a simulator that is not ready yet has no variables."""
    lines = ["# SIMULATED: 2 x X.", "export LD_LIBRARY_PATH='/a b/c=d'", "export STATE=/tmp/s"]
    assert devices.simulator_environment(lines) is None
    variables = devices.simulator_environment([*lines, "# ready"])
    assert variables == {"LD_LIBRARY_PATH": "/a b/c=d", "STATE": "/tmp/s"}


def test_what_the_user_has_set_does_not_configure_the_demo(
    devices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of the user's own agent must not send the demo's figures to the user's ledger."""
    monkeypatch.setenv("APPORTION_LEDGER", "postgresql://books")
    monkeypatch.setenv("OTHER", "kept")
    environment = devices.clean_environment()
    assert "APPORTION_LEDGER" not in environment
    assert environment["OTHER"] == "kept"
