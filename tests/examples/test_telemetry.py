"""What the demo reads on the agent's pages, from a real HTTP server on the loopback interface."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PAGE = """\
# TYPE apportion_cost_usd_total counter
apportion_cost_usd_total{workload="gpt-pretrain",category="direct"} 0.25
apportion_cost_usd_total{workload="gpt-pretrain",category="checkpoint"} 0.5
apportion_cost_usd_total{workload="",category="unallocated"} 1
# TYPE apportion_settled_until_timestamp_seconds gauge
apportion_settled_until_timestamp_seconds{device="GPU-a"} 1700000007.5
apportion_settled_until_timestamp_seconds{device="GPU-b"} 1700000003
"""


class _Pages(ThreadingHTTPServer):
    """Answers with the pages it was given, and 503 for any other path."""

    pages: dict[str, str]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Pages)
        page = self.server.pages.get(self.path)
        self.send_response(503 if page is None else 200)
        self.end_headers()
        self.wfile.write((page or "").encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing on standard error."""


@pytest.fixture
def server() -> Iterator[_Pages]:
    """An agent that is not ready and has no pages yet."""
    with _Pages(("127.0.0.1", 0), _Handler) as pages:
        pages.pages = {}
        thread = threading.Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield pages
        pages.shutdown()
        thread.join()


@pytest.fixture
def telemetry(server: _Pages, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The telemetry of that agent."""
    monkeypatch.setattr(sys, "path", [str(repository / "examples"), *sys.path])
    port = server.server_address[1]
    return importlib.import_module("telemetry").Telemetry(f"http://127.0.0.1:{port}")


def test_an_agent_that_is_not_ready_has_no_figures(telemetry: Any) -> None:
    """What cannot be read is None: the demo shows nothing rather than zero."""
    assert not telemetry.ready()
    assert telemetry.cost() is None
    assert telemetry.settled_until() is None


def test_cost_is_added_by_workload(telemetry: Any, server: _Pages) -> None:
    """A workload's categories are one sum, and what nobody held is kept apart."""
    server.pages = {"/readyz": "ok", "/metrics": PAGE}
    assert telemetry.ready()
    assert telemetry.cost() == {"gpt-pretrain": 0.75, "": 1.0}


def test_settled_means_settled_on_every_device(telemetry: Any, server: _Pages) -> None:
    """The demo waits for the last device, not for the first."""
    server.pages = {"/metrics": PAGE}
    assert telemetry.settled_until() == 1700000003.0


def test_no_agent_is_no_error(telemetry: Any) -> None:
    """An agent that has gone gives None, not a traceback in the middle of the demo."""
    telemetry.url = "http://127.0.0.1:9"
    assert telemetry.cost() is None
