"""A span around each request of an ASGI server, with its tokens from what the server answers.

    app.add_middleware(RequestMiddleware)                              # FastAPI, Starlette, KServe
    vllm serve ... --middleware apportion.client.asgi.RequestMiddleware

Pure ASGI: messages pass through one by one as they come, so streams stay streams. Of a response
only its `usage` is read, of a request only headers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from apportion.client.caller import Callers, Headers
from apportion.client.counting import count
from apportion.client.serving import request
from apportion.client.span import Span
from apportion.client.usage import UsageReader

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

PATHS: Final = (
    r"/(?:[^/]+/)*v1/(?:chat/completions|completions|responses|messages|embeddings|rerank|score)",
    r"/(?:[^/]+/)*v1/models/(?P<predicted>[^/:]+):predict",
    r"/(?:[^/]+/)*v2/models/(?P<inferred>[^/]+)(?:/versions/[^/]+)?/(?:infer|generate|generate_stream)",
    r"/generate(?:_stream)?",
)
"""Paths whose POSTs are requests to a model: OpenAI's, Anthropic's, KServe's, Triton's, TGI's."""
MODEL: Final = "APPORTION_MODEL"
_REQUEST_ID: Final = "x-request-id"
_SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400


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
    ) -> None:
        """Wrap `app`.

        Args:
            app: An ASGI 3 application.
            paths: Regular expressions; a POST whose whole path matches one is a request. What a
                group of it matches is the model.
            model: The model of all other requests; else $APPORTION_MODEL.
            callers: Who the tenant is; else as the variables of `Callers.of` say.

        Raises:
            ValueError: `callers` is absent and a variable says what it cannot.
            OSError: the file of API keys cannot be read.
        """
        self._app = app
        self._paths = re.compile("|".join(f"(?:{path})" for path in paths))
        self._model = model if model is not None else os.environ.get(MODEL) or None
        self._callers = Callers.of(os.environ) if callers is None else callers

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection of the server."""
        found = None
        if scope["type"] == "http" and scope.get("method") == "POST":
            found = self._paths.fullmatch(scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        named = next((name for name in found.groups() if name), None)
        scope, request_id, span = self._begun(scope, named or self._model)
        with span as running:
            exchange = _Exchange(running, request_id, receive, send)
            await self._app(scope, exchange.receive, exchange.send)
            exchange.end()

    def _begun(self, scope: Message, model: str | None) -> tuple[Message, str, Span]:
        """What the app is given, and the span, which has not begun."""
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in reversed(scope["headers"])
        }
        request_id = headers.get(_REQUEST_ID)
        if not request_id:
            request_id = os.urandom(16).hex()
            scope = {
                **scope,
                "headers": [*scope["headers"], (_REQUEST_ID.encode(), request_id.encode())],
            }
        return scope, request_id, self._span(request_id, model, headers, scope.get("client"))

    def _span(self, request_id: str, model: str | None, headers: Headers, peer: Any) -> Span:
        tenant = None
        try:
            tenant = self._callers.tenant(headers, peer[0] if peer else None)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        traceparent = headers.get("traceparent")
        return request(request_id, tenant=tenant, model=model, traceparent=traceparent)


class _Exchange:
    """The messages of one request, as they pass."""

    def __init__(self, span: Span, request_id: str, receive: Receive, send: Send) -> None:
        self._span, self._request_id = span, request_id
        self._receive, self._send = receive, send
        self._status = 0
        self._streams = self._is_left = self._is_whole = self._has_ended = False
        self._usage: UsageReader | None = None

    async def receive(self) -> Message:
        """The caller's next message."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._is_whole:
            self._is_left = True
        return message

    async def send(self, message: Message) -> None:
        """The app's next message, passed on at once."""
        try:
            message = self._seen(message)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        await self._send(message)
        if self._is_whole:
            self.end()

    def _seen(self, message: Message) -> Message:
        if message["type"] == "http.response.start":
            return self._started(message)
        if message["type"] == "http.response.body":
            body: bytes = message.get("body", b"")
            if body and self._streams:
                self._span.first_token()
            if body and self._usage is not None:
                self._usage.feed(body)
            self._is_whole = not message.get("more_body", False)
        return message

    def _started(self, message: Message) -> Message:
        headers = [
            (bytes(name).lower(), bytes(value).lower())
            for name, value in message.get("headers", ())
        ]
        said = dict(headers)
        self._status = message["status"]
        kind = said.get(b"content-type", b"").partition(b";")[0].strip()
        self._streams = kind in {b"text/event-stream", b"application/x-ndjson"}
        readable = kind == b"application/json" or self._streams
        if readable and said.get(b"content-encoding", b"identity") == b"identity":
            self._usage = UsageReader()
        if _REQUEST_ID.encode() in said:
            return message
        added = (_REQUEST_ID.encode(), self._request_id.encode("latin-1"))
        return {**message, "headers": [*message.get("headers", ()), added]}

    def end(self) -> None:
        """The answer is complete, or the app has returned without one; a second time is nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        span = self._span
        usage = None if self._usage is None else self._usage.usage
        if usage is not None and any(number is not None for number in usage):
            span.add(*usage)
        elif self._is_whole and 0 < self._status < _CLIENT_ERROR:
            count("usage_missing")
        if self._is_left or (self._status and not self._is_whole):
            span.finish("cancelled")
        else:
            failed = not self._status or self._status >= _CLIENT_ERROR
            span.finish("error" if failed else "ok")
