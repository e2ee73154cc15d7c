"""Exact mode: who was in which iteration, by a scheduler of vLLM's shape."""

from __future__ import annotations

import importlib
import logging
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.decoded import only, request_id

from apportion import client
from apportion.client import iterations, layout
from apportion.client.iterations import Iteration, Scheduled
from apportion.client.vllm.batches import BatchLog

MODULE = "apportion.client.vllm.scheduler"


class Request(SimpleNamespace):
    """What is read of vLLM's."""

    num_computed_tokens: int
    num_prompt_tokens: int


def records(directory: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a kind."""
    return [each for each in only(directory).records if each["kind"] == layout.KINDS[kind]]


def test_a_request_in_chunks_and_tokens_is_two_records(directory: Path) -> None:
    """Two chunks alike, then three tokens; each iteration has its counts."""
    log, there = BatchLog(3), Request(num_computed_tokens=0, num_prompt_tokens=8)
    requests = {"cmpl-mine-0-0123abcd": there}
    (name,) = requests
    for number, tokens in enumerate([4, 4, 1, 1, 1]):
        there.num_computed_tokens += tokens
        output = object()
        log.scheduled(output, {name: tokens}, requests)
        requests = requests if number < 4 else {}
        log.ended(output, {name: tokens}, requests)
    chunks, decode = records(directory, "scheduled")
    fields = layout.SCHEDULED_FIELDS.items()
    said = [{name: each[field] for name, field in fields} for each in (chunks, decode)]
    assert said == [
        {"first": 0, "iterations": 2, "tokens": 4, "context": 0},
        {"first": 2, "iterations": 3, "tokens": 1, "context": 8},
    ]
    assert [request_id(each["request_id"]) for each in (chunks, decode)] == [("mine", False)] * 2
    assert {each["engine"] for each in (chunks, decode)} == {3}
    told = records(directory, "iteration")
    assert [each["step"] for each in told] == [0, 1, 2, 3, 4]
    counts = [(each["samples"], each["micro_batches"]) for each in told]
    assert counts == [(1, 0)] * 2 + [(0, 1)] * 3
    assert all(each["flags"] == layout.FLAG_EXACT for each in told)
    assert client.counts() == {}


Batch = dict[str, int]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), max_size=4), max_size=12),
    st.booleans(),
)
def test_what_is_written_says_each_batch(
    monkeypatch: pytest.MonkeyPatch, batches: list[Batch], ahead: bool
) -> None:
    """Preempted, mixed, or scheduled one ahead of the other: the records say who was in each."""
    written: list[Scheduled] = []
    told: list[Iteration] = []
    monkeypatch.setattr(iterations, "record_scheduled", written.append)

    def record(each: Iteration, *, exact: bool) -> None:
        assert exact
        told.append(each)

    monkeypatch.setattr(iterations, "record", record)
    log = BatchLog(0)
    requests = {name: Request(num_computed_tokens=100, num_prompt_tokens=1) for name in "abcd"}
    last = {name: at for at, batch in enumerate(batches) for name in batch}
    under_way: list[tuple[int, object, Batch]] = []

    def end() -> None:
        number, output, batch = under_way.pop(0)
        going_on = {
            name: request for name, request in requests.items() if last.get(name, -1) > number
        }
        log.ended(output, batch, going_on)

    for number, batch in enumerate(batches):
        under_way.append((number, object(), batch))
        log.scheduled(under_way[-1][1], batch, requests)
        if not ahead or len(under_way) > 1:
            end()
    while under_way:
        end()
    found: dict[int, Batch] = defaultdict(dict)
    for each in written:
        for index in range(each.first, each.first + each.iterations):
            assert each.request_id not in found[index]
            found[index][each.request_id] = each.tokens
    true = [batch for batch in batches if batch]  # an empty one is no iteration
    assert dict(found) == dict(enumerate(true))
    assert [each.number for each in told] == list(range(len(true)))
    assert [each.decode_tokens for each in told] == [sum(batch.values()) for batch in true]


class Scheduler:
    """What is used of vLLM's."""

    def __init__(self, *, vllm_config: Any) -> None:
        self.vllm_config, self.requests = vllm_config, dict[str, Request]()

    def schedule(self, *_: Any) -> Any:
        for request in self.requests.values():
            request.num_computed_tokens += 1
        return SimpleNamespace(num_scheduled_tokens=dict.fromkeys(self.requests, 1))

    def update_from_output(self, output: Any, model_output: Any) -> Any:
        del model_output
        for name in output.num_scheduled_tokens:
            del self.requests[name]
        return "outputs"


class AsyncScheduler(Scheduler):
    """The other one."""


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, in a vLLM 0.32 of which there is no more than it needs."""
    plain = ModuleType("vllm.v1.core.sched.scheduler")
    plain.Scheduler = Scheduler  # type: ignore[attr-defined]
    ahead = ModuleType("vllm.v1.core.sched.async_scheduler")
    ahead.AsyncScheduler = AsyncScheduler  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for module in (plain, ahead):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    installed(monkeypatch, "0.32.0")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


def installed(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """That vLLM is the one in this environment."""
    found = [SimpleNamespace(name="vllm", version=version)]
    monkeypatch.setattr(metadata, "distributions", lambda: found)


def config(*, ahead: bool) -> Any:
    """What is read of vLLM's configuration."""
    parallel = SimpleNamespace(data_parallel_index=1)
    scheduling = SimpleNamespace(async_scheduling=ahead)
    return SimpleNamespace(scheduler_config=scheduling, parallel_config=parallel)


@pytest.mark.parametrize("ahead", [False, True])
def test_it_is_the_scheduler_that_vllm_would_have(
    directory: Path, scheduler: Any, *, ahead: bool
) -> None:
    """Asynchronous or not; what it returns is what the scheduler returns."""
    made = scheduler.ExactScheduler(vllm_config=config(ahead=ahead))
    assert isinstance(made, AsyncScheduler) == ahead
    assert issubclass(scheduler.ExactScheduler, AsyncScheduler)  # else vLLM would not run ahead
    made.requests["r"] = Request(num_computed_tokens=4, num_prompt_tokens=4)
    output = made.schedule(False)
    assert made.update_from_output(output, None) == "outputs"
    (told,) = records(directory, "iteration")
    assert (told["engine"], told["micro_batches"], told["output_tokens"]) == (1, 1, 1)
    assert len(records(directory, "scheduled")) == 1


@pytest.mark.parametrize("version", ["0.11.2", "1.0", "dev"])
def test_a_version_that_is_not_known_schedules_as_ever(
    monkeypatch: pytest.MonkeyPatch, scheduler: Any, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    """vLLM's own scheduler runs, and the log says why."""
    installed(monkeypatch, version)
    with caplog.at_level(logging.WARNING, "vllm.apportion"):
        made = scheduler.ExactScheduler(vllm_config=config(ahead=True))
    assert type(made) is AsyncScheduler
    assert "not costed by their exact batches: this vLLM is" in caplog.text


def test_an_odd_output_breaks_nothing(directory: Path, scheduler: Any) -> None:
    """What cannot be read is counted; the engine goes on."""
    made = scheduler.ExactScheduler(vllm_config=config(ahead=False))
    made.requests["r"] = SimpleNamespace(num_computed_tokens=0)
    output = made.schedule()
    assert made.update_from_output(output, None) == "outputs"
    assert client.counts()["engine_unknown"] >= 1
    assert directory.is_dir()
