"""The HTTP doors: /metrics, /healthz, /readyz and a page that links them.

Health is a matter of the process: it answers, and the settlement thread shows life. Readiness
is whether the numbers can be used. A collector that fails or a ledger that is locked takes
neither down: both are said in /readyz's text and on /metrics, and serving goes on.
"""

from __future__ import annotations

import asyncio
import html
import logging
import math
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from apportion.agent.http_profiles import add_profiles
from apportion.agent.metrics.rendering import MetricsText, Rendered
from apportion.agent.profile_store import ProfileStore
from apportion.agent.snapshot import SnapshotBoard
from apportion.core.clock import Clock
from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_SECOND

_LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 128
_MAX_CONNECTIONS: Final = 256
_TIMEOUT: Final = "X-Prometheus-Scrape-Timeout-Seconds"
_KEEP_ALIVE_S: Final = 75
"""Longer than a scrape interval, so that a scraper keeps its connection."""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>apportion</title></head>
<body><h1>apportion {version}</h1>
<p>Who caused the cost of this node's devices.</p>
<ul>
<li><a href="/metrics">/metrics</a> for Prometheus</li>
<li><a href="/healthz">/healthz</a> whether the process lives</li>
<li><a href="/readyz">/readyz</a> whether its numbers can be used, and what is degraded</li>
<li><a href="/profiles">/profiles</a> finished profiles, for this host alone</li>
</ul></body></html>
"""


class Health:
    """Judges the board: is the settlement thread alive, are there numbers to show."""

    def __init__(self, board: SnapshotBoard, clock: Clock, *, stuck_after_ns: int) -> None:
        """`stuck_after_ns`: how long the settlement thread may show no life."""
        self._board = board
        self._clock = clock
        self._stuck_after_ns = stuck_after_ns
        self._since_ns = clock.monotonic_ns()

    def alive(self) -> tuple[bool, str]:
        """Whether the process lives, and a sentence for /healthz."""
        beat_ns = self._board.last_beat_ns
        now_ns = self._clock.monotonic_ns()
        silent_ns = now_ns - (self._since_ns if beat_ns is None else beat_ns)
        if silent_ns > self._stuck_after_ns:
            return False, f"the settlement thread has shown no life for {_seconds(silent_ns)}"
        return True, "ok"

    def ready(self) -> tuple[bool, list[str]]:
        """Whether the numbers can be used, and sentences for /readyz."""
        alive, sentence = self.alive()
        if not alive:
            return False, [sentence]
        if self._board.stopping:
            return False, ["the agent is going down"]
        snapshot = self._board.latest
        if snapshot is None:
            return False, ["the first settlement has not been made yet"]
        degraded = [f"degraded: {sentence}" for sentence in snapshot.complaints]
        if not snapshot.ledger.up and not snapshot.ledger.commits:
            return False, degraded
        return True, ["ok", *degraded]


def create_app(
    text: MetricsText, health: Health, version: str, profiles: ProfileStore | None = None
) -> FastAPI:
    """The application; it holds no state of its own. `profiles` are served where there are some."""
    app = FastAPI(title="apportion", version=version, docs_url=None, redoc_url=None)
    page = HTMLResponse(_PAGE.format(version=html.escape(version)))
    rendering = asyncio.Lock()

    async def render(accept: str, encoding: str) -> Rendered:
        # One scrape renders, the others wait here without taking a thread each.
        async with rendering:
            ready = text.cached(accept, encoding)
            if ready is not None:
                return ready
            return await asyncio.to_thread(text.render, accept, encoding)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        encoding = request.headers.get("accept-encoding", "")
        rendered = text.cached(accept, encoding)
        if rendered is None:
            try:
                rendered = await asyncio.wait_for(render(accept, encoding), _patience_s(request))
            except asyncio.TimeoutError:
                return PlainTextResponse("the text is not ready in time\n", status_code=503)
        headers = {**rendered.headers, "Content-Type": rendered.content_type}
        return Response(rendered.body, headers=headers)

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> Response:
        alive, sentence = health.alive()
        return PlainTextResponse(f"{sentence}\n", status_code=200 if alive else 503)

    @app.get("/readyz", response_class=PlainTextResponse)
    async def readyz() -> Response:
        ready, sentences = health.ready()
        status = 200 if ready else 503
        return PlainTextResponse("".join(f"{line}\n" for line in sentences), status_code=status)

    if profiles is not None:
        add_profiles(app, profiles)
    return app


def _patience_s(request: Request) -> float | None:
    """How long the scraper waits, less a tenth for the way; None where it does not say."""
    try:
        timeout_s = float(request.headers.get(_TIMEOUT, ""))
    except ValueError:
        return None
    return 0.9 * timeout_s if 0 < timeout_s < math.inf else None


class HttpService:
    """uvicorn as a service. The socket is bound at `start`, so a busy port is a clear refusal."""

    name = "http"

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._server: _Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the real port where 0 was asked for.

        Raises:
            RuntimeError: it was not started.
        """
        if self._socket is None:
            raise RuntimeError("the HTTP service was not started")
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Bind and listen.

        Raises:
            ConfigError: the address cannot be bound.
        """
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
                listening.listen(_BACKLOG)
            except OSError:
                listening.close()
                raise
        except OSError as failure:
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {failure.strerror or failure}; "
                "choose another address with `listen`"
            ) from failure
        self._socket = listening
        host, port = self.address
        shown = f"[{host}]" if ":" in host else host
        _LOG.info("listening on http://%s:%d", shown, port)

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set, then let requests at hand finish for a moment."""
        if self._socket is None:
            raise RuntimeError("the HTTP service was not started")
        config = uvicorn.Config(
            self._app,
            access_log=False,
            log_config=None,
            lifespan="off",
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=2,
            server_header=False,
        )
        server = _Server(config)
        self._server = server
        watcher = threading.Thread(target=_ask_to_exit, args=(stop, server), daemon=True)
        watcher.start()
        server.run(sockets=[self._socket])

    def shutdown(self, timeout_ns: int) -> None:
        """Close the socket, also where `run` did not come to it."""
        del timeout_ns
        if self._server is not None:
            self._server.should_exit = True
        if self._socket is not None:
            self._socket.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the run group decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _ask_to_exit(stop: threading.Event, server: _Server) -> None:
    stop.wait()
    server.should_exit = True


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns / NS_PER_SECOND:.1f} s"
