from __future__ import annotations

from pathlib import Path

import pytest

from apportion.simulator import BuildError, build, environment
from apportion.simulator.build import LIBRARY_NAME


def test_the_same_sources_are_compiled_once(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second build finds the first one by its hash and needs no compiler."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    assert build(library.parent.parent) == library
    assert library.name == LIBRARY_NAME


def test_no_compiler_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what was looked for and what to install; nothing half-made stays behind."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(BuildError, match=r"looked for cc, gcc, clang.*apt-get install gcc"):
        build(tmp_path / "library")
    assert not (tmp_path / "library").exists()


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    """Its own words and exit status are in the error, and no library appears."""
    compiler = tmp_path / "broken-cc"
    compiler.write_text("#!/bin/sh\necho 'cannot find -lpthread' >&2\nexit 4\n")
    compiler.chmod(0o755)
    with pytest.raises(BuildError, match=r"exit status 4\):\ncannot find -lpthread"):
        build(tmp_path / "library", compiler=str(compiler))
    assert list((tmp_path / "library").rglob(LIBRARY_NAME)) == []


def test_the_cache_of_the_user_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDG_CACHE_HOME is respected, and the library is named as loaders look for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = build()
    assert library.is_relative_to(tmp_path / "apportion" / "simulator")
    assert library.name == LIBRARY_NAME


def test_environment_keeps_an_inherited_search_path(tmp_path: Path) -> None:
    """The simulated library comes first, what was there stays, and paths are absolute."""
    library = tmp_path / "lib" / LIBRARY_NAME
    assert environment(tmp_path / "state", library, inherited={"LD_LIBRARY_PATH": "/opt/x"}) == {
        "LD_LIBRARY_PATH": f"{tmp_path}/lib:/opt/x",
        "APPORTION_SIMULATOR_STATE": f"{tmp_path}/state",
    }
    assert environment(tmp_path / "state", library, inherited={})["LD_LIBRARY_PATH"] == (
        f"{tmp_path}/lib"
    )
