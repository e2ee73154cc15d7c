"""packaging/install-debian.sh: silent when all is there, and it names what it cannot bring."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def install(
    repository: Path, tmp_path: Path, listed: str, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script on a list of its own, with a folder of its own."""
    packages = tmp_path / "packages.txt"
    packages.write_text(listed)
    script = repository / "packaging" / "install-debian.sh"
    return subprocess.run(
        [str(script), str(packages), str(tmp_path / "unpacked")],
        env={**os.environ, "PATH": path or os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_nothing_missing_is_silent(repository: Path, tmp_path: Path) -> None:
    """`make test` says nothing about packages on a machine that has them."""
    done = install(repository, tmp_path, "# a list\n\nbash  bash  install  everything\n")

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_machine_without_apt_is_told_what_is_skipped(repository: Path, tmp_path: Path) -> None:
    """Where there is no apt-get, each missing program is named with what needs it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "env", "id", "mktemp", "rm"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)

    done = install(
        repository,
        tmp_path,
        "prometheus  promtool  unpack  the lint of /metrics\n",
        path=str(programs),
    )

    assert done.returncode == 0
    assert "promtool (Debian's prometheus) is missing, for the lint of /metrics" in done.stderr
    assert "no Debian" in done.stderr


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="only a Debian has apt-get")
def test_unknown_way_is_an_error(repository: Path, tmp_path: Path) -> None:
    """A slip in the list is named with its package, not passed over."""
    done = install(repository, tmp_path, "some-package  no-such-program  borrow  a test\n")

    assert done.returncode == 2
    assert "some-package: 'borrow' is neither unpack, unpack_all nor install" in done.stderr


def test_list_of_the_repository_is_well_formed(repository: Path) -> None:
    """Every line has a package, a program, a way that the script knows, and a reason."""
    lines = (repository / "packaging" / "debian-packages.txt").read_text().splitlines()
    rows = [line.split(maxsplit=3) for line in lines if line and not line.startswith("#")]

    assert rows
    for row in rows:
        assert len(row) == 4, row
        assert row[2] in {"unpack", "unpack_all", "install"}, row
