"""One collector alone, as `apportion once` prints it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from apportion.collectors.once import collect_once
from apportion.collectors.options import CollectorOptions
from apportion.core.errors import ConfigError

Tree = Callable[[str], Path]


def test_host_on_a_fixture_tree(tree: Tree) -> None:
    """Paths are parameters, and what is unsupported is absent."""
    root = tree("bare_host")
    result = collect_once(
        "host",
        {
            "proc_root": str(root / "proc"),
            "sys_root": str(root / "sys"),
            "host_name": "node7",
            "period": "0.01",
        },
    )
    assert json.loads(json.dumps(result)) == result
    assert result["success"]
    assert result["error"] is None
    (reading,) = result["readings"]
    assert reading["device"] == "cpu:node7"
    assert reading["memory_total_bytes"] == 16_000_000 * 1024
    assert "utilization_ratio" not in reading
    assert result["sources"][0]["share"] == "1"


def test_nvml_on_the_simulator(simulated: Mapping[str, str]) -> None:
    """All devices of a sweep, labelled as simulated."""
    result = collect_once("nvml", CollectorOptions(period_ns=10**8, environment=simulated))
    json.dumps(result)
    assert (result["success"], result["state"]) == (True, "ok")
    assert [device["simulated"] for device in result["devices"]] == [True] * 3
    assert {reading["device"] for reading in result["readings"]} == {
        device["device"] for device in result["devices"]
    }


def test_nvml_without_a_library(tmp_path: Path) -> None:
    """It answers at once, with what was looked for."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    result = collect_once("nvml", CollectorOptions(period_ns=10**7, environment=environment))
    assert (result["success"], result["absent"], result["state"]) == (False, True, "no_library")
    assert "libnvidia-ml.so.1" in result["error"]
    assert result["readings"] == []


def test_an_unknown_collector() -> None:
    """The command line shows the sentence."""
    with pytest.raises(ConfigError, match="there is no collector 'tpu'"):
        collect_once("tpu", {})
