"""A span around each request of an ASGI server, with its tokens from what the server answers.

    app.add_middleware(RequestMiddleware)                              # FastAPI, Starlette, KServe
    vllm serve ... --middleware apportion.client.asgi.RequestMiddleware

Pure ASGI: messages pass through one by one as they come, so streams stay streams. Of a response
only its `usage` is read, of a request only headers, and where there are adapters its `model`.
Where the engine in this process has told of the request by the time that it is answered, the
engine's tokens and times are recorded.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

from apportion.client.announced import Announced
from apportion.client.arrival import REQUEST_ID, Arrivals, Message
from apportion.client.asked_model import AskedModel
from apportion.client.caller import Callers
from apportion.client.cost_estimate import CostEstimates
from apportion.client.counting import count
from apportion.client.engine import engine_requests
from apportion.client.id_hashing import hashed_ids
from apportion.client.serving import Request
from apportion.client.span import Span
from apportion.client.usage import Usage, UsageReader
from apportion.client.vllm.adapters import loaded_adapters
from apportion.client.vllm.installed import server_logger, warn_where_missing

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

PATHS: Final = (
    r"/(?:[^/]+/)*v1/(?:chat/completions(?:/batch)?|completions|responses|messages|embeddings)",
    r"/(?:[^/]+/)*v1/audio/(?:transcriptions|translations)",
    r"/(?:v[12]/)?(?:rerank|score|embed)|/classify|/pooling|/generative_scoring|/invocations",
    r"/inference/v1/generate",
    r"/(?:[^/]+/)*v1/models/(?P<predicted>[^/:]+):predict",
    r"/(?:[^/]+/)*v2/models/(?P<inferred>[^/]+)(?:/versions/[^/]+)?/(?:infer|generate|generate_stream)",
    r"/generate(?:_stream)?",
)
"""Paths whose POSTs are requests to a model: OpenAI's, Anthropic's, KServe's, Triton's, TGI's, and
what vLLM has beside them."""
MODEL: Final = "APPORTION_MODEL"
ADAPTERS: Final = "APPORTION_ADAPTERS"
COST_HEADER: Final = "APPORTION_COST_HEADER"
_COST: Final = b"x-apportion-cost-estimate"
_TURNS: Final = 3
_OK: Final = 200
_CLIENT_ERROR: Final = 400
_PARTS: Final = 16
"""Of a stream, so many are looked through at once, unless one is longer than so many bytes."""
_PART_BYTES: Final = 1024
_MOST_NAMES: Final = 512
"""More than a ring has room for."""


class RequestMiddleware:
    """Makes each POST to a model one request, from its arrival to its last byte.

    The id is the caller's `X-Request-Id`, or a new one, which the app sees in its place and the
    answer carries. `traceparent` gives the trace. Where the stream's last event says no `usage`
    (OpenAI's `stream_options.include_usage`), tokens are unknown and counted as `usage_missing`.
    """

    def __init__(
        self,
        app: App,
        *,
        paths: Iterable[str] = PATHS,
        model: str | None = None,
        callers: Callers | None = None,
        adapters: Iterable[str] = (),
        cost_header: bool | None = None,
    ) -> None:
        """Wrap `app`.

        Args:
            app: An ASGI 3 application.
            paths: Regular expressions; a POST whose whole path matches one is a request. What a
                group of it matches is the model, once the app has answered for it: anybody can
                invent a name, and a process has room for so many.
            model: The model of all other requests; else $APPORTION_MODEL, else what the engine in
                this process says that it serves.
            adapters: Names of LoRA adapters, beside those that vLLM has loaded and those in
                $APPORTION_ADAPTERS: a request for one is recorded as the adapter's, on top of
                the model. Where there are any, `model` is read of bodies.
            cost_header: Add `X-Apportion-Cost-Estimate` to whole answers; else whether
                $APPORTION_COST_HEADER is 1.
            callers: Who the tenant is; else as the variables of `Callers.of` say. Where one of
                them is wrong the log says so, and requests have no tenant.
        """
        self._app = app
        self._paths = re.compile("|".join(f"(?:{path})" for path in paths))
        self._model = model if model is not None else os.environ.get(MODEL) or None
        self._arrivals = Arrivals(callers)
        named = [each.strip() for each in os.environ.get(ADAPTERS, "").split(",")]
        self._adapters: frozenset[str] = frozenset(each for each in (*adapters, *named) if each)
        wants = os.environ.get(COST_HEADER) == "1" if cost_header is None else cost_header
        self._costs = CostEstimates() if wants else None
        self._has_served = False
        self._answered: set[str] = set()
        """Names in paths that are models: the app has answered for them."""
        problem = hashed_ids.problem() if hashed_ids.on else None
        if problem is not None:
            server_logger().warning("apportion: requests have no ids: %s", problem)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection of the server."""
        found = None
        if scope["type"] == "http" and scope.get("method") == "POST":
            found = self._paths.fullmatch(scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        if not self._has_served:
            self._has_served = True
            warn_where_missing()
        named = next((name for name in found.groups() if name), None)
        if named in self._answered:
            model, named = named, None
        else:
            model = self._model or engine_requests.model
        scope, request_id, span = self._arrivals.begun(scope, model)
        with span as running:
            announced = _announce(request_id, scope["path"], running)
            adapters = (self._adapters, loaded_adapters(scope.get("app")))
            exchange = _Exchange(
                running, request_id, receive, send, announced, adapters, self._costs, named
            )
            try:
                await self._app(scope, exchange.receive, exchange.send)
                await exchange.settle()
            finally:
                if exchange.is_named and named is not None and len(self._answered) < _MOST_NAMES:
                    self._answered.add(named)
                if announced is not None:
                    engine_requests.forget(request_id, announced)


def _announce(request_id: str, path: str, span: Span) -> Announced | None:
    try:
        return engine_requests.announce(request_id, path, span)
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")
        return None


async def _has_left(receive: Receive) -> bool:
    """Whether the caller of a request that was read to its end has hung up.

    An app that only answers never asks, and its server drops the answer without a word. A server
    hears of it within a few turns of the loop; nothing else than this can come.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # another library's
        return False
    waiting = asyncio.ensure_future(receive(), loop=loop)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    if not waiting.done():
        waiting.cancel()
        return False
    return bool(waiting.result()["type"] == "http.disconnect")


class _Exchange:
    """The messages of one request, as they pass."""

    def __init__(
        self,
        span: Span,
        request_id: str,
        receive: Receive,
        send: Send,
        announced: Announced | None,
        adapters: Iterable[Collection[str]],
        costs: CostEstimates | None,
        named: str | None,
    ) -> None:
        self._costs, self._named = costs, named
        self.is_named = False
        """The app has answered for the model `named`, of which nobody knew."""
        self._held: Message | None = None
        """The beginning of an answer, until its whole body is there."""
        self._adapters = [names for names in adapters if names]
        self._asked = AskedModel() if self._adapters else None
        self._span, self._request_id, self._announced = span, request_id, announced
        self._receive, self._send = receive, send
        self._status = 0
        self._streams = self._is_left = self._is_whole = self._has_ended = False
        self._flows = False
        """Whether the first token of a stream has passed."""
        self._parts: list[bytes] = []
        """Of the answer's body, what was not looked through yet."""
        self._listens = True
        """Whether the next message, or one that the app waits for, may be more of the request."""
        self._usage: UsageReader | None = None

    async def receive(self) -> Message:
        """The caller's next message."""
        self._listens = True
        message = await self._receive()
        self._listens = bool(message.get("more_body", False))
        if self._asked is not None:
            self._find_adapter(self._asked, message.get("body", b""))
        if message["type"] == "http.disconnect" and not self._is_whole:
            self._is_left = True
        return message

    def _find_adapter(self, asked: AskedModel, body: bytes) -> None:
        try:
            asked.feed(body)
            name = asked.name
            if name is not None:
                self._asked = None
                span = self._span
                if isinstance(span, Request) and any(name in known for known in self._adapters):
                    span.answered_by(name)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")

    def send(self, message: Message) -> Awaitable[None]:
        """The app's next message, passed on at once.

        Nearly all are in the middle of a stream. A coroutine of our own for each of them, or a
        search in it, would cost several times what is done here.
        """
        if not self._flows or not message.get("more_body", False):
            return self._pass_on(message)
        try:
            part: bytes = message.get("body", b"")
            parts = self._parts
            parts.append(part)
            if len(parts) == _PARTS or len(part) > _PART_BYTES:
                self._read_parts()
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        return self._send(message)

    async def _pass_on(self, message: Message) -> None:
        """A message that is not in the middle of a stream."""
        try:
            if message["type"] == "http.response.start":
                message = self._started(message)
                if not (self._streams or self._listens or self._is_left):
                    self._is_left = await _has_left(self._receive)
            elif message["type"] == "http.response.body":
                self._answered(message)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        if self._costs is not None and self._holds(message):
            self._held = message
            return
        if self._held is not None:
            await self._send_held()
        await self._send(message)
        if self._is_whole and self._announced is None:
            self._end()

    def _holds(self, message: Message) -> bool:
        """Whether a header is to be added for which the body that follows has to be known."""
        if self._usage is None or self._streams:
            return False
        return bool(message["type"] == "http.response.start" and message["status"] == _OK)

    async def _send_held(self) -> None:
        """What was held back, with the estimate where the body that is to follow is whole."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            if self._is_whole:
                held = self._with_estimate(held)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        await self._send(held)

    def _with_estimate(self, message: Message) -> Message:
        usage, span = self._usage_said, self._span
        if self._costs is None or usage.input_tokens is None or not isinstance(span, Request):
            return message
        tokens = usage.input_tokens + (usage.output_tokens or 0)
        said = self._costs.estimate(span.served, tokens)
        if said is None:
            return message
        return {**message, "headers": [*message.get("headers", ()), (_COST, said.encode())]}

    def _answered(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        if body:
            self._parts.append(body)
            self._read_parts()
            if self._streams:
                self._span.first_token()
                self._flows = True
        self._is_whole = not message.get("more_body", False)

    def _read_parts(self) -> None:
        try:
            if self._usage is not None:
                self._usage.feed(b"".join(self._parts))
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        self._parts.clear()

    def _started(self, message: Message) -> Message:
        said = {
            bytes(name).lower(): bytes(value).lower() for name, value in message.get("headers", ())
        }
        self._status = message["status"]
        if self._named is not None and self._status < _CLIENT_ERROR:
            self.is_named = True
            if isinstance(self._span, Request):
                self._span.answered_by(model=self._named)
        kind = said.get(b"content-type", b"").partition(b";")[0].strip()
        self._streams = kind in {b"text/event-stream", b"application/x-ndjson"}
        readable = kind == b"application/json" or self._streams
        if readable and said.get(b"content-encoding", b"identity") == b"identity":
            self._usage = UsageReader()
        if REQUEST_ID in said:
            return message
        added = (REQUEST_ID, self._request_id.encode())
        return {**message, "headers": [*message.get("headers", ()), added]}

    async def settle(self) -> None:
        """The app has returned: end the request, with what the engine tells of it where it does.

        The caller has the answer already, so that nobody waits for this.
        """
        if self._held is not None:
            await self._send_held()
        try:
            if self._announced is not None and await self._told(self._announced):
                return
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        self._end()

    async def _told(self, announced: Announced) -> bool:
        """Whether the engine's word was there, and ended the request."""
        status = self._status_of_span()
        if status == "ok":
            output_tokens = self._usage_said.output_tokens
            if not announced.is_told(output_tokens):
                await announced.until_told(output_tokens)
        if announced.is_told_of:
            announced.finish(status)
        return announced.is_told_of

    @property
    def _usage_said(self) -> Usage:
        if self._parts:
            self._read_parts()
        return Usage() if self._usage is None else self._usage.usage

    def _end(self) -> None:
        """End the request by what passed here; a second time is nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        usage, status = self._usage_said, self._status_of_span()
        if any(number is not None for number in usage):
            self._span.add(*usage)
        elif status == "ok":
            count("usage_missing")
        self._span.finish(status)

    def _status_of_span(self) -> str:
        if self._is_left or (self._status and not self._is_whole):
            return "cancelled"
        return "ok" if 0 < self._status < _CLIENT_ERROR else "error"
