"""The wheel in an empty environment: no dependency, and the client works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USE_THE_CLIENT = """
import json, sys
from importlib import metadata
from apportion import client

client.init(workload="bare-wheel", tags={"team": "packaging"})
with client.step(1) as step:
    with step.phase("forward"):
        pass
    step.add(tokens=8192)
with client.request("request-1", tenant="search", model="tiny") as request:
    request.scheduled()
    request.add(input_tokens=512, cached_input_tokens=128)
    request.first_token()
    request.add(output_tokens=64)
started = client.request("request-2").start()
started.finish(status="cancelled")
started.finish(status="ok")
ours = {name for name in sys.modules if name.startswith("apportion.")}
print(json.dumps({
    "distributions": sorted(found.metadata["Name"] for found in metadata.distributions()),
    "requires": metadata.requires("apportion") or [],
    "parts": sorted({name.split(".")[1] for name in ours}),
    "from": client.__file__,
}))
"""


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which nothing but the wheel is installed: its folder."""
    environment = tmp_path_factory.mktemp("bare") / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    target = ["--python", str(environment / "bin" / "python")]
    quickly = ["--quiet", "--no-deps", "--no-index", "--no-compile"]
    run([*pip, *target, "install", *quickly, str(wheel)])
    return environment


def run(
    command: list[str], *, rings: Path | None = None, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command outside the repository's reach, and say what it printed if it fails."""
    kept = ("HOME", "PATH", "LANG", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    if rings is not None:
        environment["APPORTION_RING_DIR"] = str(rings)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def test_client_works_alone(bare: Path, tmp_path: Path) -> None:
    """The client runs with nothing installed beside it, silently, importing no other part."""
    done = run([str(bare / "bin" / "python"), "-W", "error", "-c", USE_THE_CLIENT], rings=tmp_path)

    said = json.loads(done.stdout)
    assert ["apportion"] == said["distributions"]
    assert ["client"] == said["parts"]
    assert said["from"].startswith(str(bare))
    assert done.stderr == ""


def test_client_leaves_a_ring(bare: Path, tmp_path: Path) -> None:
    """What the bare client recorded is in the one ring that its process made."""
    rings = tmp_path / "rings"
    rings.mkdir()

    run([str(bare / "bin" / "python"), "-c", USE_THE_CLIENT], rings=rings)

    (ring,) = rings.iterdir()
    written = ring.read_bytes()
    assert written.startswith(b"apprtn01")
    assert b"request-1" in written
    assert b"bare-wheel" in written


def test_base_install_requires_nothing(bare: Path, tmp_path: Path) -> None:
    """Every requirement in the wheel's metadata belongs to an extra."""
    done = run([str(bare / "bin" / "python"), "-c", USE_THE_CLIENT], rings=tmp_path)

    requires: list[str] = json.loads(done.stdout)["requires"]
    assert requires
    assert [] == [line for line in requires if "extra ==" not in line]


def test_self_test_runs_alone(bare: Path, tmp_path: Path) -> None:
    """`python -m apportion.client` explains itself without the agent's extra."""
    command = [str(bare / "bin" / "python"), "-m", "apportion.client"]
    done = subprocess.run(
        command,
        env={"APPORTION_RING_DIR": str(tmp_path), "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert "Traceback" not in done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(("name", "extra"), [("report", "agent"), ("trace", "profiles")])
def test_command_names_the_extra_it_lacks(bare: Path, name: str, extra: str) -> None:
    """Of a command that needs more than the client, the dispatcher says which extra to install."""
    command = [str(bare / "bin" / "apportion"), name]
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode != 0
    assert f"apportion[{extra}]" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.13t", "3.14"])
def test_client_works_on_every_python_here(wheel: Path, tmp_path: Path, version: str) -> None:
    """The client runs from the wheel's files on each supported Python that this machine has."""
    python = shutil.which(f"python{version}")
    probe = [str(python), "-S", "-c", "pass"]
    if python is None or subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no python{version} on PATH")
    files = tmp_path / "files"
    shutil.unpack_archive(wheel, files, format="zip")

    done = run([python, "-S", "-W", "error", "-c", USE_THE_CLIENT], rings=tmp_path, path=files)

    assert ["client"] == json.loads(done.stdout)["parts"]
