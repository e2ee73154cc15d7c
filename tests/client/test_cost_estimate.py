"""The estimate of an answer's cost: what the agent writes and the middleware adds to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from tests.client.decoded import rings
from tests.client.test_asgi import asked, served

from apportion import client
from apportion.agent.ingest.cost_file import CostFile
from apportion.client import layout
from apportion.client.cost_estimate import OLDEST_NS, CostEstimates
from apportion.core.clock import ManualClock, SystemClock

HEADER = "x-apportion-cost-estimate"


@pytest.fixture
def costs(directory: Path) -> Iterator[CostFile]:
    """What an agent has written for the one process of this test, whose ring is there."""
    with client.request("first"):
        pass
    (ring,) = rings(directory)
    made = CostFile(directory, SystemClock())
    per_token = {("test", "llama"): 0.000002, ("test", ""): 0.5, ("another", "llama"): 7.0}
    made.write(per_token, "USD", {ring.stem: "test", "0" * 32: "another"})
    yield made
    made.stop()


@pytest.mark.usefixtures("costs")
def test_a_whole_answer_has_an_estimate(directory: Path) -> None:
    """All its tokens, 15 of them, at what one of this workload and model cost lately."""
    answer = asked(served(model="llama", cost_header=True), "POST", "/v1/completions")
    assert answer.headers[HEADER] == "0.00003 USD"
    assert answer.json()["usage"]["completion_tokens"] == 3
    said = json.loads((directory / layout.COSTS_FILE).read_bytes())
    assert set(said["per_token"]) == {"test"}
    assert client.counts() == {}


@pytest.mark.usefixtures("costs")
@pytest.mark.parametrize(
    ("path", "model", "wants"),
    [
        ("/v1/chat/completions", "llama", True),
        ("/v1/completions", "qwen", True),
        ("/v1/completions", "llama", None),
        ("/v1/models/llama:predict", None, True),
        ("/v1/score", "llama", True),
    ],
)
def test_answers_without_one(path: str, model: str | None, wants: bool | None) -> None:
    """Streams, models of which nothing is known, those without usage, errors; unless asked for."""
    answer = asked(served(model=model, cost_header=wants), "POST", path)
    assert answer.content
    assert HEADER not in answer.headers


def test_by_a_variable(costs: CostFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM's `--middleware` takes no arguments; once the agent has ended there is none."""
    monkeypatch.setenv("APPORTION_COST_HEADER", "1")
    monkeypatch.setenv("APPORTION_MODEL", "llama")
    assert HEADER in asked(served(), "POST", "/v1/completions").headers
    costs.stop()
    assert HEADER not in asked(served(), "POST", "/v1/completions").headers


@pytest.mark.usefixtures("costs")
def test_old_costs_are_none() -> None:
    """An agent that writes no more does not price answers for ever; nor does a clock ahead."""
    now_ns = SystemClock().monotonic_ns()
    for later_ns, known in ((0, True), (OLDEST_NS, False), (-3_600 * 10**9, False)):
        clock = ManualClock(now_ns + later_ns)
        assert (CostEstimates(clock.monotonic_ns).estimate("llama", 1) is not None) == known


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"monotonic_ns": 1, "currency": "USD"}',
        '{"monotonic_ns": %d, "currency": "USD\\r\\nX: y", "per_token": {"test": {"": 1}}}',
        '{"monotonic_ns": %d, "currency": "USD", "per_token": {"test": {"": "x"}}}',
        '{"monotonic_ns": %d, "currency": "USD", "per_token": {"test": {"": NaN}}}',
        '{"monotonic_ns": %d, "currency": "USD", "per_token": {"test": {"": -1}}}',
        '{"monotonic_ns": %d, "currency": "USD", "per_token": []}',
    ],
)
def test_a_file_of_anybody(directory: Path, text: str) -> None:
    """What is nonsense is no estimate, and puts nothing into an answer."""
    with client.request("first"):
        pass
    now_ns = SystemClock().monotonic_ns()
    (directory / layout.COSTS_FILE).write_text(text % now_ns if "%d" in text else text)
    assert CostEstimates().estimate(None, 5) is None


@pytest.mark.usefixtures("costs")
def test_small_and_large_amounts() -> None:
    """Digits are written out: no reader takes an exponent for granted."""
    estimates = CostEstimates()
    assert estimates.estimate(None, 5) == "2.5 USD"
    small = estimates.estimate("llama", 1)
    assert Decimal((small or "").split()[0]) == Decimal("0.000002")
