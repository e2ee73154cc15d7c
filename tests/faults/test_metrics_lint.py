"""The live /metrics, judged by Prometheus' own tool."""

from __future__ import annotations

import subprocess

import pytest
from tests.faults.node import Node


@pytest.mark.needs_program("promtool")
def test_promtool_is_silent(node: Node) -> None:
    """Names, types, help and units are as Prometheus wants them, with real values behind them."""
    node.simulator.set_utilization(1, 0.9)
    agent = node.agent().until_ready()
    log = node.root / "finished"
    steps = node.workload("traffic", "steps", "train", 100, 50, log, "0")
    requests = node.workload("traffic", "requests", "serve", 100, 50, log, "1")
    assert steps.end() == requests.end() == (0, "")
    awaited = {
        "apportion_cost_usd_total": {"category": "uninstrumented"},
        "apportion_requests_total": {"workload": "serve"},
        "apportion_steps_total": {"workload": "train"},
        "apportion_tokens_total": {"workload": "train"},
        "apportion_phase_cost_usd_total": {"phase": "forward"},
    }
    agent.eventually(
        lambda: all(agent.door.value(name, **labels) for name, labels in awaited.items()),
        "cost, requests, steps, tokens and phases",
    )

    text = agent.door.text()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert agent.door.value("apportion_undeclared_samples_total") == 0
    assert agent.stop() == 0, agent.log
