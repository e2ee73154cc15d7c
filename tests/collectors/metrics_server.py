"""A real HTTP server on loopback whose text and manners a test chooses while it runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Manners = Callable[[BaseHTTPRequestHandler], None]


class MetricsServer:
    """Serves `text`, or answers with `manners` where those are set. `requests` are the paths."""

    def __init__(self) -> None:
        self.text = ""
        self.manners: Manners | None = None
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.requests.append(self.path)
                served.headers.append(dict(self.headers.items()))
                with suppress(ConnectionError):
                    (served.manners or plain)(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
                del format, args

        def plain(handler: BaseHTTPRequestHandler) -> None:
            answer(handler, self.text.encode())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where to scrape it."""
        return f"http://127.0.0.1:{self.port}/metrics"

    @contextmanager
    def running(self) -> Generator[MetricsServer, None, None]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def answer(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    *,
    status: int = 200,
    length: int | None = None,
    **headers: str,
) -> None:
    """One answer; `length` may promise more than `body` has. Underscores in names are hyphens."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in {"Content_Type": "text/plain; version=0.0.4", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
