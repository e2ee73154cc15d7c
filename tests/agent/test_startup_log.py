"""The first lines of the agent's log."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from apportion.agent.config_layers import load_config
from apportion.agent.startup_log import SIMULATOR_STATE, log_start
from apportion.collectors.discovery import discover
from apportion.simulator.identity import STATE_VARIABLE


def _said(
    caplog: pytest.LogCaptureFixture, environment: dict[str, str], **flags: str
) -> list[tuple[str, str]]:
    config = load_config(None, {}, flags, uid=0, host_name="node-a").config
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log_start(config, discover(config.devices), "USD", environment, "1.2.3")
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_places_prices_and_devices_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where to look for the ledger and the rings, and whose prices these are."""
    table = str(tmp_path / "prices.yaml")
    said = _said(caplog, {}, devices="simulator", prices=table, state_dir=str(tmp_path))
    places = "rings in /run/apportion/rings, locks in /run/apportion/locks"
    assert said == [
        ("INFO", "apportion 1.2.3, node node-a, mode node"),
        ("INFO", f"ledger {tmp_path}/ledger.db, state in {tmp_path}, {places}"),
        ("INFO", f"prices: {table}, in USD"),
        ("INFO", "devices: SIMULATED: the configuration names the simulator"),
    ]
    assert ("INFO", "prices: none, quantities without amounts") in _said(
        caplog, {}, devices="cpu", prices="none"
    )


@pytest.mark.parametrize("devices", ["cpu", "nvml"])
def test_a_simulator_that_is_not_taken_is_said(
    caplog: pytest.LogCaptureFixture, devices: str
) -> None:
    """Whoever set its variable expects SIMULATED GPUs, and learns how to get them."""
    assert SIMULATOR_STATE == STATE_VARIABLE
    environment = {SIMULATOR_STATE: "/run/apportion/simulator.state"}
    level, text = _said(caplog, environment, devices=devices)[-1]
    assert level == "WARNING"
    assert "--devices simulator" in text
    named = _said(caplog, environment, devices="simulator")
    assert not any(SIMULATOR_STATE in text for _, text in named)
