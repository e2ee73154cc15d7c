"""The collector of engines' /metrics, on real servers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.collectors.metrics_server import MetricsServer, answer, unused_port

from apportion.collectors.collector import Batch
from apportion.collectors.engines import Engines
from apportion.collectors.observed import Observed
from apportion.collectors.once import collect_once
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import ManualClock
from apportion.core.errors import ConfigError, NoData, SourceLost

SECOND = 10**9
HERE = Path(__file__).parent / "fixtures/engines"
VLLM = (HERE / "vllm.prom").read_text()


def made(*urls: str) -> tuple[Engines, ManualClock]:
    clock = ManualClock(monotonic_ns=100 * SECOND)
    return Engines(CollectorOptions(engine_urls=urls, environment={}), clock), clock


def told(batch: Batch, name: str) -> dict[str, float]:
    """By target."""
    return {
        dict(sample.labels)["target"]: sample.value
        for sample in batch.samples or ()
        if sample.name == name
    }


def test_engines_side_by_side(server: MetricsServer) -> None:
    """Each target under its own name; how each look went is told, too."""
    server.text = VLLM
    recorded = str(HERE / "sglang.prom")
    engines, _ = made(server.url, recorded)
    engines.start()
    batch = engines.collect()
    engines.close()
    place = f"127.0.0.1:{server.port}"
    assert told(batch, "engine_requests_running") == {place: 7, recorded: 9}
    assert told(batch, "scrape_success") == {place: 1, recorded: 1}
    assert batch.readings == ()


def test_one_that_fails_is_a_sample(
    server: MetricsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on; the failure is logged once, and the recovery."""
    caplog.set_level(logging.INFO)
    server.manners = lambda handler: answer(handler, b"", status=503)
    recorded = str(HERE / "sglang.prom")
    engines, clock = made(server.url, recorded)
    place = f"127.0.0.1:{server.port}"
    for _ in range(3):
        batch = engines.collect()
        assert told(batch, "scrape_success") == {place: 0, recorded: 1}
        assert told(batch, "engine_requests_running") == {recorded: 9}
        clock.advance(5 * SECOND)
    server.manners, server.text = None, VLLM
    clock.advance(600 * SECOND)
    assert told(engines.collect(), "scrape_success") == {place: 1, recorded: 1}
    assert [record.getMessage() for record in caplog.records] == [
        f"collector engines: {place} answered 503 Service Unavailable",
        f"collector engines: {place} answers again",
    ]


def test_a_text_of_something_else_is_a_failure(server: MetricsServer) -> None:
    """It is a text of metrics, but not an engine's."""
    server.text = "process_cpu_seconds_total 1\n"
    engines, _ = made(server.url, str(HERE / "sglang.prom"))
    assert told(engines.collect(), "scrape_success")[f"127.0.0.1:{server.port}"] == 0


def test_all_that_fail_are_an_error() -> None:
    """Then the collector has failed, with the reasons; each place still says that it failed."""
    ports = (unused_port(), unused_port())
    engines, clock = made(*(f"http://127.0.0.1:{port}" for port in ports))
    with pytest.raises(SourceLost, match=rf"127\.0\.0\.1:{ports[0]}: connection refused"):
        engines.collect()
    told_of = told(Observed(engines, clock).collect(), "scrape_success")
    assert told_of == {f"127.0.0.1:{port}": 0 for port in ports}


def test_no_engine_is_named() -> None:
    """Not a fault."""
    engines, _ = made()
    with pytest.raises(NoData, match="--engine-url"):
        engines.collect()


def test_a_malformed_url_is_refused_at_once() -> None:
    """When the collector is made, not when it runs."""
    with pytest.raises(ConfigError, match="http, https or file"):
        made("ftp://node/metrics")


def test_counters_that_begin_again(server: MetricsServer) -> None:
    """A restarted engine's counters fall, as Prometheus expects of a restart; nothing is kept."""
    server.text = VLLM
    engines, clock = made(server.url)
    engines.collect()
    server.text = 'vllm:generation_tokens_total{model_name="small-8b"} 5\n'
    clock.advance(5 * SECOND)
    batch = engines.collect()
    assert list(told(batch, "engine_tokens_total").values()) == [5]
    assert told(batch, "engine_requests_running") == {}


def test_once() -> None:
    """`apportion once --collector engines --engine-url PATH`."""
    result = collect_once("engines", {"engine_urls": str(HERE / "vllm.prom"), "period": "0.01"})
    assert result["success"]
    samples = {(each["name"], each["labels"].get("le")) for each in result["samples"]}
    assert ("engine_time_to_first_token_seconds_bucket", "+Inf") in samples


def test_once_without_an_engine() -> None:
    """It says what to give."""
    result = collect_once("engines", {"period": "0.01"})
    assert (result["success"], result["absent"]) == (False, True)
    assert "--engine-url" in result["error"]
