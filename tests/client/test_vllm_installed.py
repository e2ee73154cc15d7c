"""What `python -m apportion.client` says of the vLLM beside it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest

from apportion.client.vllm.installed import GROUP, MODULE, findings, warn_where_missing

STATISTICS = """
@dataclass
class FinishedRequestStats:
    finish_reason: int
{}

@dataclass
class PrefillStats:
    request_id: str | None = None
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with a vLLM that knows plugins, and with nothing else of vLLM."""
    package = tmp_path / "site" / "vllm"
    (package / "plugins").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('vLLM was imported')")
    (package / "plugins/__init__.py").write_text(f'GROUP = "{GROUP}"\n')
    (package / "v1/metrics").mkdir(parents=True)
    (package / "v1/metrics/stats.py").write_text(
        STATISTICS.format("    request_id: str | None = None")
    )
    described(package.parent, "vllm", "0.32.0")
    monkeypatch.setattr(sys, "path", [str(package.parent)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    return package.parent


def described(site: Path, name: str, version: str, entry_points: str | None = None) -> None:
    """Metadata of a distribution."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if entry_points is not None:
        (folder / "entry_points.txt").write_text(f"[{entry_points}]\napportion = {MODULE}:X\n")


def test_all_is_well(installed: Path) -> None:
    """A plugin that vLLM will find, with or without a list that names it."""
    described(installed, "apportion", "0.1.0", GROUP)
    for environ in ({}, {"VLLM_PLUGINS": "other,apportion"}):
        (found,) = findings(environ)
        assert (found.good, found.text) == (True, "vLLM 0.32.0 loads the plugin `apportion`")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("old", "upgrade it"),
        ("older", "upgrade it"),
        ("copied", "dist-info beside the package"),
        ("left out", "VLLM_PLUGINS='other' leaves it out"),
        ("empty", "VLLM_PLUGINS='' leaves it out"),
        ("nameless", "do not say which request"),
    ],
)
def test_what_is_in_the_way(installed: Path, change: str, says: str) -> None:
    """Each way in which vLLM passes the plugin over, and what to do about it."""
    plugins = installed / "vllm/plugins/__init__.py"
    if change == "old":
        plugins.write_text("")
    if change == "older":
        plugins.unlink()
    if change == "nameless":
        (installed / "vllm/v1/metrics/stats.py").write_text(STATISTICS.format(""))
    if change != "copied":
        described(installed, "apportion", "0.1.0", GROUP)
    environ = {"left out": {"VLLM_PLUGINS": "other"}, "empty": {"VLLM_PLUGINS": ""}}
    (found,) = findings(environ.get(change, {}))
    assert not found.good
    assert says in found.text


def test_without_vllm_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most environments have none."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert list(findings({})) == []


def test_the_log_says_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """In a vLLM without the plugin; not with it, and not in another server."""
    with caplog.at_level(logging.WARNING):
        warn_where_missing()
        monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
        monkeypatch.setitem(sys.modules, MODULE, ModuleType(MODULE))
        warn_where_missing()
        assert caplog.text == ""
        monkeypatch.delitem(sys.modules, MODULE)
        warn_where_missing()
    assert "has not loaded the plugin `apportion`" in caplog.text
    assert [each.name.split(".")[0] for each in caplog.records] == ["vllm"]  # which is written out
