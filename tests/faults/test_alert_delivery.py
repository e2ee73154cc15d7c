"""From a fault of a SIMULATED GPU to a webhook: agent, Prometheus, Alertmanager, all real."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from alerts import prometheus
from alerts.source import load
from tests.faults.gpus import metered
from tests.faults.node import eventually
from tests.monitoring import Alertmanager, Prometheus, Webhook

RUNBOOK = "https://wiki.example.com/runbook"
LOST, HEALTHY = 1, 0


def hurried() -> dict[str, Any]:
    """The rules as they are, but that none waits longer than a second."""
    rules = prometheus.rules(load({"runbook": RUNBOOK}))
    for file in rules.values():
        for group in file["groups"]:
            for rule in group["rules"]:
                if rule.get("for", "0s") != "0s":
                    rule["for"] = "1s"
    return rules


def routing(repository: Path, url: str) -> dict[str, Any]:
    """alerts/alertmanager.yaml, with the test's receiver and without its patience."""
    config: dict[str, Any] = yaml.safe_load((repository / "alerts/alertmanager.yaml").read_text())
    config["route"].update(group_wait="100ms", group_interval="1s")
    for receiver in config["receivers"]:
        for webhook in receiver.get("webhook_configs", ()):
            webhook["url"] = url
    return config


@pytest.mark.needs_program("prometheus", "prometheus-alertmanager", "setpriv", "unshare")
def test_a_lost_gpu_reaches_the_webhook(repository: Path, tmp_path: Path, library: Path) -> None:
    """It names the GPU and its node, leads to the runbook, and is over when the GPU is back."""
    webhook = Webhook()
    with ExitStack() as ended:
        ended.enter_context(webhook.listening())
        gpus = ended.enter_context(metered(tmp_path, library, devices=2))
        alertmanager = Alertmanager(tmp_path / "alertmanager", routing(repository, webhook.url))
        ended.callback(alertmanager.stop)
        agent = gpus.agent.door.address
        watcher = Prometheus(
            tmp_path / "prometheus", {"apportion": [agent]}, hurried(), alertmanager.address
        )
        ended.callback(watcher.stop)
        eventually(lambda: watcher.query("apportion_device_up == 1"), "Prometheus has scraped")
        assert "ApportionDeviceLost" not in webhook.names()

        gpus.simulator.fault("lost", LOST)
        gpus.simulator.xid(LOST, 79)
        (alert, *_) = eventually(
            lambda: webhook.alerts("ApportionDeviceLost", "firing"), "the webhook hears of the loss"
        )
        assert alert["labels"] == {
            "alertname": "ApportionDeviceLost",
            "severity": "critical",
            "device": gpus.ids[LOST],
            "instance": agent,
            "job": "apportion",
            "simulated": "true",
        }
        texts = alert["annotations"]
        assert texts["runbook_url"] == f"{RUNBOOK}#apportiondevicelost"
        assert texts["summary"] == f"GPU {gpus.ids[LOST]} of {agent} is gone"

        gpus.simulator.clear(LOST)
        (over, *_) = eventually(
            lambda: webhook.alerts("ApportionDeviceLost", "resolved"),
            "the webhook hears of its end",
        )
        assert over["fingerprint"] == alert["fingerprint"]
        assert not {"ApportionAgentDown", "ApportionConservationBroken"} & webhook.names()


@pytest.mark.needs_program("amtool")
def test_the_example_of_routing_is_valid(repository: Path) -> None:
    """Alertmanager would load it, and route by severity."""
    file = repository / "alerts/alertmanager.yaml"
    done = subprocess.run(
        ["amtool", "check-config", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for severity, receiver in (("critical", "default"), ("warning", "default"), ("info", "none")):
        labels = ["alertname=ApportionAny", f"severity={severity}"]
        routed = subprocess.run(
            ["amtool", "config", "routes", "test", f"--config.file={file}", *labels],
            capture_output=True,
            text=True,
            check=True,
        )
        assert routed.stdout.strip() == receiver
