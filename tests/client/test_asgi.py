"""Requests of ASGI servers, seen from the ring."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import Request
from tests.client.decoded import labels, only, request_id

from apportion import client
from apportion.client import layout
from apportion.client.asgi import RequestMiddleware
from apportion.client.caller import Callers

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 8},
}
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRUSTING = Callers(["header:x-tenant"], ["127.0.0.1"])


def served(**options: Any) -> FastAPI:
    """A server like those of the field, in the middleware."""
    app = FastAPI()
    app.add_middleware(RequestMiddleware, **options)

    @app.post("/v1/completions")
    async def complete(request: Request) -> JSONResponse:
        assert request.headers["x-request-id"]
        with client.current_span().phase("guard_input"):
            await asyncio.sleep(0)
        return JSONResponse({"choices": [{"text": "secret"}], "usage": USAGE})

    @app.post("/v1/chat/completions")
    async def chat() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
            yield f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.post("/v1/models/llama:predict")
    async def predict() -> JSONResponse:
        return JSONResponse({"predictions": []})

    @app.post("/v1/embeddings")
    async def embed() -> JSONResponse:
        raise RuntimeError

    @app.post("/v1/score")
    async def score() -> JSONResponse:
        return JSONResponse({"error": "no such model"}, status_code=404)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({})

    return app


def asked(app: FastAPI, method: str, path: str, **headers: str) -> httpx.Response:
    """The answer to one request."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as caller:
            return await caller.request(method, path, headers=headers)

    return asyncio.run(ask())


def one(directory: Path) -> dict[str, Any]:
    """The one request that was recorded."""
    kind = layout.KINDS["request"]
    (found,) = [each for each in only(directory).records if each["kind"] == kind]
    return found


def test_a_request_says_id_tenant_model_tokens(directory: Path) -> None:
    """All that the ledger wants of a request, with nothing edited in the server."""
    app = served(model="llama", callers=TRUSTING)
    answer = asked(
        app,
        "POST",
        "/v1/completions",
        **{
            "X-Request-Id": "mine",
            "X-Tenant": "search",
            "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
        },
    )
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
    assert answer.json()["usage"] == USAGE
    found, record = only(directory), one(directory)
    assert request_id(record["request_id"]) == ("mine", False)
    assert labels(found, record) == ["search", "llama", None]
    assert record["trace_id"].hex() == TRACE
    told = [record[name] for name in ("input_tokens", "cached_input_tokens", "output_tokens")]
    assert told == [12, 8, 3]
    assert record["status"] == layout.STATUSES["ok"]
    (phase,) = [each for each in found.records if each["kind"] == layout.KINDS["phase"]]
    assert phase["parent"] == record["number"]
    assert client.counts() == {}


def test_an_id_where_there_is_none(directory: Path) -> None:
    """The app, the answer and the record have the same new id; strangers' tenants are none."""
    answer = asked(served(), "POST", "/v1/completions", **{"X-Tenant": "search"})
    found, record = only(directory), one(directory)
    assert request_id(record["request_id"]) == (answer.headers["x-request-id"], False)
    assert 32 == len(answer.headers["x-request-id"])
    assert labels(found, record) == [None, None, None]


def test_a_stream_has_a_first_token(directory: Path) -> None:
    """It ends with its last byte, and its tokens come from the last event."""
    answer = asked(served(), "POST", "/v1/chat/completions")
    assert answer.text.endswith("data: [DONE]\n\n")
    record = one(directory)
    assert record["start_ns"] < record["first_token_ns"] <= record["end_ns"]
    assert (record["input_tokens"], record["output_tokens"]) == (12, 3)


@pytest.mark.parametrize("more", [0, 13, 14, 15, 16, 17, 40])
@pytest.mark.parametrize("size", [1, 7, 2000])
def test_usage_anywhere_in_a_stream(directory: Path, more: int, size: int) -> None:
    """Its parts are looked through several at once: a report may be cut in two, early or late."""
    event = f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n".encode()
    other = b"data: {}\n\n".ljust(size)
    parts = [*[other] * more, event[:30], event[30:], *[other] * (40 - more)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    passed: list[Any] = []

    async def taken(message: Any) -> None:
        passed.append(message.get("body"))

    async def nothing() -> Any:
        return {"type": "http.request"}

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/completions"}
    asyncio.run(RequestMiddleware(app)({**scope, "headers": []}, nothing, taken))
    assert passed == [None, *parts, None]
    record = one(directory)
    assert (record["input_tokens"], record["output_tokens"]) == (12, 3)
    assert client.counts() == {}


@pytest.mark.parametrize(
    ("path", "status", "counted"),
    [
        ("/v1/models/llama:predict", "ok", {"usage_missing": 1}),
        ("/v1/embeddings", "error", {}),
        ("/v1/score", "error", {}),
    ],
)
def test_without_usage(directory: Path, path: str, status: str, counted: dict[str, int]) -> None:
    """A request without tokens is a request, too; a failed one is an error."""
    asked(served(), "POST", path)
    assert one(directory)["status"] == layout.STATUSES[status]
    assert client.counts() == counted


def test_the_path_names_the_model(directory: Path) -> None:
    """As in KServe's protocol, before the model that the server is told."""
    asked(served(model="other"), "POST", "/v1/models/llama:predict")
    assert labels(only(directory), one(directory)) == [None, "llama", None]


def test_a_name_that_nobody_answers_for_is_none(directory: Path) -> None:
    """Whoever invents models fills no table: tenants that come later keep their names."""
    app = served(model="other")
    for number in range(layout.WORD_CAPACITY):
        asked(app, "POST", f"/v2/models/invented-{number}/infer")
    asked(app, "POST", "/v1/models/llama:predict")
    asked(app, "POST", "/v1/models/llama:predict")
    found = only(directory)
    named = [labels(found, record) for record in found.records]
    assert named[-2:] == [[None, "llama", None]] * 2
    assert {str(each) for each in named[:-2]} == {str([None, "other", None])}
    assert "names_folded" not in client.counts()


def test_probes_are_no_requests(directory: Path) -> None:
    """Neither are unknown paths, nor what is not asked for by POST."""
    for method, path in (("GET", "/health"), ("POST", "/other"), ("GET", "/v1/completions")):
        asked(served(), method, path)
    assert not list(directory.glob("*"))


def test_a_wrong_variable_breaks_no_server(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what is wrong with it; requests go on, and have no tenant."""
    monkeypatch.setenv("APPORTION_TENANT_FROM", "cookie")
    answer = asked(served(), "POST", "/v1/completions", **{"X-Tenant": "search"})
    assert answer.status_code == 200
    assert "no source of tenants: 'cookie'" in caplog.text
    assert labels(only(directory), one(directory)) == [None, None, None]
    assert client.counts() == {"tenants_unknown": 1}


def test_whoever_hangs_up_has_cancelled(directory: Path) -> None:
    """A stream that its caller leaves, which the server notices, and one that breaks off."""

    async def left(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        del scope
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def nobody(message: Any) -> None:
        del message

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/generate",
        "headers": [],
    }
    asyncio.run(RequestMiddleware(left)(scope, gone, nobody))
    assert one(directory)["status"] == layout.STATUSES["cancelled"]


def served_by(directory: Path, *pieces: bytes, app: Any = None, **options: Any) -> list[str | None]:
    """Tenant, model and adapter of a request whose body comes in pieces, and of its open slot."""
    slots: list[Any] = []

    async def answers(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        del scope, send
        while (await receive())["more_body"]:
            pass
        slots.extend(each for each in only(directory).open_slots if each["start_ns"])

    coming = list(pieces)

    async def caller() -> Any:
        body = coming.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(coming)}

    async def nobody(message: Any) -> None:
        del message

    scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": [], "app": app}
    scope["path"] = "/v1/completions"
    asyncio.run(RequestMiddleware(answers, model="llama", **options)(scope, caller, nobody))
    found, record = only(directory), one(directory)
    (slot,) = slots
    named = (slot["words"] & 0xFFFFFFFF, slot["words"] >> 32 & 0xFFFF, slot["words"] >> 48)
    assert named == tuple(record[name] for name in ("tenant", "model", "adapter"))
    return labels(found, record)


@pytest.mark.parametrize(
    ("pieces", "adapter"),
    [
        ([b'{"model": "sql-lora", "prompt": "hi"}'], "sql-lora"),
        (
            [b'{"messages": [{"content": "\\"model\\": \\"x\\""}],"mod', b'el":"sql-lora"}'],
            "sql-lora",
        ),
        ([b'{"model": "llama", "prompt": "sql-lora"}'], None),
        ([b'{"model": "other"}', b""], None),
        ([b'{"model": 5}'], None),
        ([b'{"model": "\xff"}'], None),
        ([b""], None),
    ],
)
def test_an_adapter_has_its_own_name(
    directory: Path, pieces: list[bytes], adapter: str | None
) -> None:
    """By the body's `model`, where that is an adapter that the server has; a prompt names none."""
    told = served_by(directory, *pieces, adapters=["sql-lora"])
    assert told == [None, "llama", adapter]
    assert client.counts() == {}


def test_vllm_says_which_adapters_it_has(directory: Path) -> None:
    """Loaded at its start or later; where its application has another shape, there are none."""

    class Vllm:
        """An application with vLLM's models."""

        class state:  # noqa: N801 - Starlette's name
            class openai_serving_models:  # noqa: N801 - vLLM's name
                lora_requests: ClassVar = {"sql-lora": object()}

    assert served_by(directory, b'{"model": "sql-lora"}', app=Vllm()) == [
        None,
        "llama",
        "sql-lora",
    ]


@pytest.mark.parametrize(("leaves", "status"), [(True, "cancelled"), (False, "ok")])
def test_whoever_hangs_up_on_a_whole_answer(directory: Path, leaves: bool, status: str) -> None:
    """A server drops an answer that nobody waits for without a word; the app is not disturbed."""
    came = asyncio.Event()
    sent: list[Any] = []

    async def answers(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        del scope
        assert not (await receive())["more_body"]
        headers = [(b"content-type", b"application/json")]
        body = json.dumps({"usage": USAGE}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def caller() -> Any:
        if not came.is_set():
            came.set()
            return {"type": "http.request", "body": b"{}", "more_body": False}
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def keep(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/generate", "headers": []}
    asyncio.run(RequestMiddleware(answers)(scope, caller, keep))
    record = one(directory)
    assert (record["status"], record["output_tokens"]) == (layout.STATUSES[status], 3)
    assert 2 == len(sent)
    assert client.counts() == {}


def test_without_an_agent_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ring, no counts, the same answer."""
    monkeypatch.setenv("APPORTION_RING_DIR", str(tmp_path / "nowhere"))
    answer = asked(served(), "POST", "/v1/completions")
    assert answer.json()["usage"] == USAGE
    assert set(client.counts()) <= {"ring_failed"}
