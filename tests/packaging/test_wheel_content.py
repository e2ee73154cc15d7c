"""What the wheel holds: every module of every part, data included, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pytest

PARTS = ("agent", "client", "collectors", "core", "cost", "doors", "profiles", "simulator")


@pytest.fixture(scope="module")
def names(wheel: Path) -> frozenset[str]:
    """The paths of the files inside the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


def test_wheel_holds_every_file_of_every_part(names: frozenset[str], repository: Path) -> None:
    """A file that is in the tree and not in the wheel would fail only at the user's."""
    missing: list[str] = []
    for part in PARTS:
        for file in (repository / part / "apportion").rglob("*"):
            inside = file.relative_to(repository / part).as_posix()
            if file.is_file() and "__pycache__" not in file.parts and inside not in names:
                missing.append(f"{part}/{inside}")

    assert [] == missing


def test_wheel_holds_nothing_but_the_parts(names: frozenset[str]) -> None:
    """A stray top-level name would overwrite another distribution's files."""
    allowed = {("apportion", part) for part in PARTS}
    strangers = {
        name
        for name in names
        if PurePosixPath(name).parts[:2] not in allowed
        and ".dist-info" not in PurePosixPath(name).parts[0]
    }

    assert set() == strangers


def test_namespace_has_no_init(names: frozenset[str]) -> None:
    """An apportion/__init__.py in one root would hide the other six."""
    assert "apportion/__init__.py" not in names


def test_every_part_is_a_typed_package(names: frozenset[str]) -> None:
    """Without py.typed a user's type checker ignores our types."""
    expected = {
        f"apportion/{part}/{name}" for part in PARTS for name in ("__init__.py", "py.typed")
    }

    assert set() == expected - names


def test_wheel_holds_the_simulators_source(names: frozenset[str]) -> None:
    """`apportion simulator` compiles its library from what is installed."""
    native = {name for name in names if name.startswith("apportion/simulator/native/")}

    assert any(name.endswith(".c") for name in native)
    assert any(name.endswith(".h") for name in native)


def test_wheel_holds_the_migrations(names: frozenset[str]) -> None:
    """`apportion ledger migrate` finds its migrations in the installed package."""
    assert "apportion/cost/migrations/env.py" in names
    assert any(name.startswith("apportion/cost/migrations/versions/") for name in names)


def test_wheel_holds_the_license_and_the_command(wheel: Path, names: frozenset[str]) -> None:
    """The licence travels with the code, and the console script is declared."""
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        declared = archive.read(entry_points).decode()

    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "apportion = apportion.client.dispatch:main" in declared


def test_wheel_is_reproducible(repository: Path, tmp_path: Path) -> None:
    """Two builds of one tree are equal byte for byte, as docs/reproducibility.md says."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir"]
    built: list[bytes] = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        done = [*command, str(folder), str(repository)]
        subprocess.run(done, check=True, capture_output=True, timeout=100)
        (file,) = folder.glob("*.whl")
        built.append(file.read_bytes())

    assert built[0] == built[1]


@pytest.mark.skipif(
    os.environ.get("APPORTION_TEST_WHEEL") != "1", reason="only `make test` tests the wheel"
)
@pytest.mark.parametrize("part", PARTS)
def test_wheel_is_what_is_tested(part: str) -> None:
    """Under `make test` every part comes from the installed wheel and none from the tree."""
    spec = find_spec(f"apportion.{part}")

    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(sysconfig.get_path("purelib"))
