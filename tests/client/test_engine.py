"""vLLM's plugin, alone and together with the middleware, by statistics of the shapes of vLLM's."""

from __future__ import annotations

import asyncio
import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from time import monotonic_ns
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.client.decoded import labels, only, request_id

from apportion import client
from apportion.client import announced, layout
from apportion.client.asgi import RequestMiddleware
from apportion.client.caller import Callers
from apportion.client.engine import engine_requests, ids_within

TRUSTING = Callers(["header:x-tenant"], ["127.0.0.1"])
Ended = Callable[[str], Awaitable[None]]


class FinishReason(IntEnum):
    """As in vLLM: its text is not its name."""

    LENGTH = 1
    ABORT = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass
class FinishedRequestStats:
    """What vLLM 0.32 says of a finished request, of which this plugin reads these."""

    request_id: str | None = None
    finish_reason: FinishReason = FinishReason.LENGTH
    num_prompt_tokens: int = 12
    num_cached_tokens: int = 8
    num_generation_tokens: int = 3
    num_preemptions: int = 1
    queued_time: float = 0.0
    inference_time: float = 0.0
    decode_time: float = 0.0


@dataclass
class SchedulerIterationDetails:
    """What vLLM 0.32 says of an iteration, of which this plugin reads these."""

    iteration_index: int = 41
    num_ctx_requests: int = 2
    num_ctx_tokens: int = 300
    num_generation_requests: int = 5
    num_generation_tokens: int = 6
    elapsed_ms: float = 2.5


@dataclass
class Iteration:
    """Beside what is read, vLLM says much more."""

    finished_requests: list[FinishedRequestStats]


class StatLoggerBase(ABC):
    """The abstract methods of vLLM's."""

    @abstractmethod
    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None: ...

    @abstractmethod
    def record(self, scheduler_stats: Any, iteration_stats: Any) -> None: ...

    @abstractmethod
    def log_engine_initialized(self) -> None: ...


CONFIG = SimpleNamespace(model_config=SimpleNamespace(served_model_name=["tiny", "other"]))
PLUGIN = "apportion.client.vllm.stat_logger"


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A vLLM of which there is no more than what the plugin imports; no plugin is left of it."""
    loggers, stats = ModuleType("vllm.v1.metrics.loggers"), ModuleType("vllm.v1.metrics.stats")
    loggers.StatLoggerBase = StatLoggerBase  # type: ignore[attr-defined]
    stats.FinishedRequestStats = FinishedRequestStats  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.v1", "vllm.v1.metrics"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for module in (loggers, stats):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    monkeypatch.setattr(announced, "GRACE_SECONDS", 600.0)  # no machine is as slow as that
    yield SimpleNamespace(stats=stats)
    sys.modules.pop(PLUGIN, None)
    engine_requests.__init__()  # type: ignore[misc] # as new


@pytest.fixture
def logger(vllm: SimpleNamespace) -> Any:
    """The plugin as vLLM makes it."""
    made: Any = importlib.import_module(PLUGIN).StatLogger(CONFIG, 0)
    made.log_engine_initialized()
    return made


def finished(engine_id: str, **said: Any) -> Iteration:
    """An iteration in which one request ended."""
    return Iteration([FinishedRequestStats(engine_id, **said)])


def requests(directory: Path) -> list[dict[str, Any]]:
    """The records of requests, in their order."""
    kind = layout.KINDS["request"]
    return [each for each in only(directory).records if each["kind"] == kind]


def tokens(record: dict[str, Any]) -> tuple[int, ...]:
    """Input, cached and output tokens and preemptions."""
    return tuple(
        int(record[name])
        for name in ("input_tokens", "cached_input_tokens", "output_tokens", "preemptions")
    )


def answered(ended: Ended, path: str = "/v1/chat/completions", usage: str = "{}") -> Any:
    """A server with the middleware; `ended` is its engine, which is given each request's id."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del receive
        name = dict(scope["headers"])[b"x-request-id"].decode()
        await ended(name)
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        body = f'{{"usage":{usage}}}'.encode()
        await send({"type": "http.response.body", "body": body})
        await ended("")

    transport = httpx.ASGITransport(RequestMiddleware(app, callers=TRUSTING))

    async def ask(name: str) -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as caller:
            headers = {"X-Request-Id": name, "X-Tenant": "search"}
            assert (await caller.post(path, headers=headers)).status_code == 200

    return ask


@pytest.mark.parametrize(
    ("engine_id", "within"),
    [
        ("chatcmpl-mine", "mine"),
        ("cmpl-mine-0", "mine"),
        ("cmpl-req-1-0", "req-1"),
        ("2_cmpl-mine-0", "mine"),
        ("chatcmpl-mine-7", "mine-7"),
        ("generate-tokens-mine", "mine"),
        ("score-mine-3", "mine-3"),
    ],
)
def test_the_likeliest_id_within(engine_id: str, within: str) -> None:
    """The caller's id within the engine's, where several could be."""
    assert within == next(ids_within(engine_id))


@pytest.mark.parametrize("header", ["anfrage-ä".encode(), b"\xe4\xff"])
def test_ids_beyond_ascii(header: bytes) -> None:
    """A caller's id in UTF-8 is found, and so is one of any other bytes."""
    within = list(ids_within(f"chatcmpl-{header.decode('latin-1')}"))
    try:
        assert header.decode() in within
    except UnicodeDecodeError:
        assert header.decode("latin-1") in within


@pytest.mark.parametrize("engine_id", ["embd-mine-3", "chatcmpl-mine_2", "embd-mine-prompt-2"])
def test_parts_of_a_request(engine_id: str) -> None:
    """The numbers that some kinds of request have are tried without, too."""
    assert "mine" in list(ids_within(engine_id))


def test_an_iteration_is_a_record_before_its_requests(directory: Path, logger: Any) -> None:
    """With iteration details: index, counts, engine and times, and its requests come after it."""
    details = SchedulerIterationDetails()
    stats = SimpleNamespace(num_waiting_reqs=0, iteration_details=details)
    logger.record(stats, finished("cmpl-r-0"))
    logger.record(SimpleNamespace(num_waiting_reqs=0, iteration_details=None), None)
    record, request = only(directory).records
    assert (record["kind"], request["kind"]) == (layout.KINDS["iteration"], layout.KINDS["request"])
    assert record["end_ns"] - record["start_ns"] == 2_500_000
    assert record["end_ns"] == request["end_ns"]
    said = {name: record[field] for name, field in layout.ITERATION_FIELDS.items()}
    assert said == {
        "index": 41,
        "prefill_requests": 2,
        "prefill_tokens": 300,
        "decode_requests": 5,
        "decode_tokens": 6,
    }
    assert (record["engine"], record["parent"], record["tenant"]) == (0, 0, 0)


def test_a_finished_request_is_a_record(directory: Path, logger: Any) -> None:
    """The plugin alone: id, model, tokens, preemptions, and when it queued, ran and ended."""
    since_ns = monotonic_ns()
    while monotonic_ns() < since_ns + 6_000_000:  # the lengths below lie in the engine's life
        pass
    with client.step(1):  # what the caller is in is not around it
        logger.record(
            None, finished("cmpl-r-0", queued_time=0.001, inference_time=0.004, decode_time=0.003)
        )
    (record,) = requests(directory)
    assert request_id(record["request_id"]) == ("cmpl-r-0", False)
    assert labels(only(directory), record) == [None, "tiny", None]
    assert (tokens(record), record["parent"]) == ((12, 8, 3, 1), 0)
    names = ("start_ns", "scheduled_ns", "first_token_ns", "end_ns")
    start_ns, scheduled_ns, first_ns, end_ns = (record[name] for name in names)
    assert (scheduled_ns - start_ns, first_ns - scheduled_ns, end_ns - first_ns) == (
        1_000_000,
        1_000_000,
        3_000_000,
    )
    assert client.counts() == {}


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (FinishReason.LENGTH, "ok"),
        (FinishReason.ABORT, "cancelled"),
        (FinishReason.ERROR, "error"),
    ],
)
def test_reasons_are_statuses(
    directory: Path, logger: Any, reason: FinishReason, status: str
) -> None:
    """Why it ended, in the ring's words."""
    logger.record(None, finished("cmpl-r-0", finish_reason=reason))
    (record,) = requests(directory)
    assert record["status"] == layout.STATUSES[status]


@pytest.mark.parametrize("lengths", [(-5.0, 1e9, 1e9), (0.0, 1e9, 0.0), (0.0, 0.001, 0.002)])
def test_impossible_lengths(directory: Path, logger: Any, lengths: tuple[float, ...]) -> None:
    """A request that never was scheduled has lengths, too, and they say nothing."""
    queued, inference, decode = lengths
    logger.record(
        None, finished("r", queued_time=queued, inference_time=inference, decode_time=decode)
    )
    (record,) = requests(directory)
    assert (record["scheduled_ns"], record["first_token_ns"]) == (0, 0)
    assert tokens(record) == (12, 8, 3, 1)


def test_middleware_and_plugin_make_one_request(directory: Path, logger: Any) -> None:
    """Tenant and id by HTTP, tokens and times by the engine, whose word goes before `usage`."""

    async def engine(name: str) -> None:
        if name:
            logger.record(None, finished(f"chatcmpl-{name}"))

    ask = answered(engine, usage='{"prompt_tokens":99,"completion_tokens":1}')
    asyncio.run(ask("mine"))
    (record,) = requests(directory)
    assert request_id(record["request_id"]) == ("mine", False)
    assert labels(only(directory), record) == ["search", "tiny", None]
    assert tokens(record) == (12, 8, 3, 1)
    assert record["start_ns"] <= record["scheduled_ns"] <= record["end_ns"]
    assert client.counts() == {}


def test_the_engine_may_tell_after_the_answer(directory: Path, logger: Any) -> None:
    """The record waits for it, also for the last of several samples; the caller does not."""
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        for _ in range(2):
            await asyncio.sleep(0)
            logger.record(None, finished("chatcmpl-mine"))

    async def engine(name: str) -> None:
        if not name:
            tasks.append(asyncio.create_task(later()))

    asyncio.run(answered(engine, usage='{"completion_tokens":6}')("mine"))
    (record,) = requests(directory)
    assert tokens(record) == (12, 8, 6, 2)
    assert client.counts() == {}


def test_another_thread_may_tell(directory: Path, logger: Any) -> None:
    """Whether before it is waited for or after, its word wakes who waits."""
    told: list[asyncio.Future[None]] = []

    async def engine(name: str) -> None:
        if not name:
            told.append(
                asyncio.ensure_future(
                    asyncio.to_thread(logger.record, None, finished("chatcmpl-mine"))
                )
            )

    asyncio.run(answered(engine, usage='{"completion_tokens":3}')("mine"))
    (record,) = requests(directory)
    assert tokens(record) == (12, 8, 3, 1)
    assert client.counts() == {}


def test_several_prompts_and_samples(directory: Path, logger: Any) -> None:
    """A prompt is read once for all of its samples; prompts add up; one abort shows."""

    async def engine(name: str) -> None:
        if name:
            logger.record(None, finished(f"cmpl-{name}-0"))
            logger.record(None, finished(f"cmpl-{name}-0"))
            logger.record(None, finished(f"cmpl-{name}-1", finish_reason=FinishReason.ABORT))

    asyncio.run(answered(engine, "/v1/completions")("mine"))
    (record,) = requests(directory)
    assert tokens(record) == (24, 16, 9, 3)
    assert record["status"] == layout.STATUSES["cancelled"]


@pytest.mark.parametrize(("second", "is_said"), [(1, True), (0, False)])
def test_a_request_says_in_which_engine_it_was(
    directory: Path, logger: Any, second: int, *, is_said: bool
) -> None:
    """Both samples were in the second engine; where one was in another, it says none."""
    loggers = [logger, type(logger)(CONFIG, 1)]

    async def engine(name: str) -> None:
        if name:
            loggers[1].record(None, finished(f"0_cmpl-{name}-0"))
            loggers[second].record(None, finished(f"1_cmpl-{name}-0"))

    asyncio.run(answered(engine, "/v1/completions")("mine"))
    (record,) = requests(directory)
    assert bool(record["flags"] & layout.FLAG_ENGINE) == is_said
    assert record["engine"] == int(is_said)


def test_the_ring_says_how_the_server_is_spread(directory: Path, vllm: SimpleNamespace) -> None:
    """Before the first request, so that its devices can be counted."""
    sizes = SimpleNamespace(tensor_parallel_size=2, pipeline_parallel_size=1, data_parallel_size=2)
    config = SimpleNamespace(**vars(CONFIG), parallel_config=sizes)
    made: Any = importlib.import_module(PLUGIN).StatLogger(config, 0)
    made.record(None, finished("cmpl-mine-0"))
    assert only(directory).identity["parallel"] == {
        "tensor": 2,
        "pipeline": 1,
        "data": 2,
        "first": 0,
        "engines": 2,
        "here": 2,
        "devices": 2,
        "apart": 1,
    }
    assert client.counts() == {}


def test_one_id_twice_at_once(directory: Path, logger: Any) -> None:
    """Callers who send the same id are two requests all the same, each told of once."""

    async def both() -> None:
        arrived: list[str] = []
        go = asyncio.Event()

        async def engine(name: str) -> None:
            if name:
                arrived.append(name)
                if len(arrived) == 2:
                    go.set()
                await go.wait()
                logger.record(None, finished(f"chatcmpl-{name}"))

        ask = answered(engine)
        await asyncio.gather(ask("same"), ask("same"))

    asyncio.run(both())
    assert [tokens(each) for each in requests(directory)] == [(12, 8, 3, 1)] * 2


def test_a_silent_engine(directory: Path, logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the answer says counts where the engine says nothing; its late word is no request."""
    monkeypatch.setattr(announced, "GRACE_SECONDS", 0.0)

    async def engine(name: str) -> None:
        del name

    asyncio.run(answered(engine, usage='{"prompt_tokens":5,"completion_tokens":1}')("mine"))
    (record,) = requests(directory)
    assert (record["input_tokens"], record["output_tokens"]) == (5, 1)
    assert record["scheduled_ns"] == record["start_ns"]
    logger.record(None, finished("chatcmpl-mine"))
    assert len(requests(directory)) == 1
    assert client.counts() == {"engine_silent": 1, "engine_late": 1}


def test_responses_are_left_to_the_middleware(directory: Path, logger: Any) -> None:
    """Their ids in the engine are new ones: they would be a second request."""

    async def engine(name: str) -> None:
        if name:
            logger.record(None, finished("resp_77_0"))

    usage = '{"input_tokens":5,"output_tokens":1}'
    asyncio.run(answered(engine, "/v1/responses", usage)("mine"))
    (record,) = requests(directory)
    assert (record["input_tokens"], record["output_tokens"]) == (5, 1)
    assert record["start_ns"] <= record["scheduled_ns"] < record["end_ns"]


def test_whoever_is_announced_runs_once_nothing_waits(directory: Path, logger: Any) -> None:
    """The agent sees in the open slot that a request is admitted, before its end says when."""
    seen: list[int] = []

    async def engine(name: str) -> None:
        if not name:
            return
        for waiting in (1, 0):
            logger.record(SimpleNamespace(num_waiting_reqs=waiting), None)
            (slot,) = only(directory).open_slots
            assert slot["packed"] >> layout.FLAGS_SHIFT == layout.FLAG_TOLD_LATER
            seen.append(slot["scheduled_ns"])
        logger.record(None, finished(f"chatcmpl-{name}"))

    asyncio.run(answered(engine)("mine"))
    assert seen[0] == 0 < seen[1]


def test_unknown_statistics_are_counted(directory: Path, logger: Any) -> None:
    """Whatever vLLM makes of them, nothing is raised into its loop, and nothing is recorded."""
    for one, other in ((object(), None), (None, Iteration([object()])), (3, 4)):  # type: ignore[list-item]
        logger.record(one, other, None, engine_idx=0)
    logger.record(None, object(), mm_cache_stats=None)
    logger.log()
    assert client.counts() == {"engine_unknown": 3}
    assert not list(directory.glob("*"))


def test_a_vllm_that_does_not_say_ids(
    directory: Path, vllm: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """The first that had the plugin did not: the log says it once, the middleware goes on alone."""

    @dataclass
    class Early:
        num_prompt_tokens: int = 0

    vllm.stats.FinishedRequestStats = Early
    made: Any = importlib.import_module(PLUGIN).StatLogger(CONFIG)
    made.record(None, finished("r"))
    assert "does not say which request" in caplog.text

    async def engine(name: str) -> None:
        del name

    asyncio.run(answered(engine, usage='{"prompt_tokens":5,"completion_tokens":1}')("mine"))
    (record,) = requests(directory)
    assert record["input_tokens"] == 5
    assert client.counts() == {}


def test_a_strange_configuration(vllm: SimpleNamespace) -> None:
    """A vLLM whose configuration is another one starts all the same."""
    made: Any = importlib.import_module(PLUGIN).StatLogger(object(), engine_index=1)
    made.record(None, None)
    assert client.counts() == {"internal_error": 1}
