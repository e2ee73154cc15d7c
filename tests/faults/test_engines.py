"""Engines that are scraped while the agent meters: shown, restarted, gone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.collectors.metrics_server import MetricsServer, answer
from tests.faults.node import Node

FIXTURES = Path(__file__).parents[1] / "collectors/fixtures/engines"
VLLM, SGLANG = FIXTURES / "vllm.prom", FIXTURES / "sglang.prom"


@pytest.fixture
def engine() -> Iterator[MetricsServer]:
    """An engine's /metrics on loopback."""
    with MetricsServer().running() as server:
        server.text = VLLM.read_text()
        yield server


@pytest.mark.slow
@pytest.mark.needs_program("promtool")
@pytest.mark.parametrize("node", [1], indirect=True)
def test_engines_beside_devices(node: Node, engine: MetricsServer) -> None:
    """A live engine and a recorded one; one that fails costs its own series and nothing else."""
    agent = node.agent(engine_urls=[engine.url, str(SGLANG)]).until_ready()
    target = f"127.0.0.1:{engine.port}"
    door = agent.door

    def running() -> float | None:
        return door.value("apportion_engine_requests_running", target=target, engine="vllm")

    agent.eventually(lambda: running() == 7, "the engine's requests are shown")
    labels = {"target": target, "model": "small-8b", "le": "1.0"}
    assert door.value("apportion_engine_time_to_first_token_seconds_bucket", **labels) == 6
    assert door.value("apportion_engine_metric_matched", metric="kv_usage") == 2
    text = door.text()
    assert "# TYPE apportion_engine_time_to_first_token_seconds histogram" in text
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    engine.text = 'vllm:num_requests_running{model_name="small-8b"} 1\n'
    agent.eventually(lambda: running() == 1, "it is restarted and shows what it has")
    engine.manners = lambda handler: answer(handler, b"", status=500)
    agent.eventually(lambda: door.value("apportion_scrape_success", target=target) == 0, "it fails")
    assert running() is None
    assert door.value("apportion_engine_requests_running", engine="sglang") == 9
    assert door.value("apportion_collector_success", collector="engines") == 1
    assert door.value("apportion_collector_success", collector="nvml") == 1
    assert door.value("apportion_undeclared_samples_total") == 0
    assert agent.stop() == 0, agent.log
    assert agent.log.count("answered 500") == 1
