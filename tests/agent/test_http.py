"""The HTTP doors: what they say in each state, and that a real server stops and starts cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from apportion.agent.http import Health, HttpService, create_app
from apportion.agent.metrics.exposition import Exposition
from apportion.agent.metrics.rendering import MetricsText, Rendered
from apportion.agent.pipeline.publisher import Facts
from apportion.agent.snapshot import LedgerCounts, Snapshot, SnapshotBoard
from apportion.agent.testing import full_snapshot
from apportion.core.clock import ManualClock
from apportion.core.errors import ConfigError

SECOND_NS = 10**9


class Doors:
    """A board, a clock and the application over them."""

    def __init__(self) -> None:
        self.clock = ManualClock(5_000 * SECOND_NS)
        self.board = SnapshotBoard()
        self.app = make_app(self.board, self.clock)

    def publish(self, snapshot: Snapshot) -> None:
        self.board.publish(replace(snapshot, monotonic_ns=self.clock.monotonic_ns()))

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(ask())


def make_app(board: SnapshotBoard, clock: ManualClock) -> FastAPI:
    text = MetricsText(board, Exposition(board, "0.1.0", strict=True))
    return create_app(text, Health(board, clock, stuck_after_ns=30 * SECOND_NS), "0.1.0")


@pytest.fixture
def doors() -> Doors:
    return Doors()


def test_the_index_links_the_doors(doors: Doors) -> None:
    """A person who opens the port finds the way."""
    page = doors.get("/")
    assert page.status_code == 200
    assert all(f'href="{path}"' in page.text for path in ("/metrics", "/healthz", "/readyz"))


def test_metrics_change_with_the_snapshot_only(doors: Doors) -> None:
    """A scrape is answered before the first snapshot, and follows the latest."""
    early = doors.get("/metrics")
    assert early.status_code == 200
    assert "apportion_build_info" in early.text
    doors.publish(full_snapshot())
    first = doors.get("/metrics")
    assert "apportion_cost_usd_total" in first.text
    assert doors.get("/metrics").content == first.content
    doors.publish(full_snapshot(scale=2))
    assert doors.get("/metrics").content != first.content


def test_a_scrape_is_not_kept_longer_than_it_waits(doors: Doors) -> None:
    """A text that is not ready in time is a plain answer, and the next scrape finds it."""
    go_on = threading.Event()

    class Slow(MetricsText):
        def render(self, accept: str, accept_encoding: str) -> Rendered:
            """Not before it may."""
            assert go_on.wait(60)
            return super().render(accept, accept_encoding)

    doors.publish(full_snapshot())
    text = Slow(doors.board, Exposition(doors.board, "0.1.0", strict=True))
    app = create_app(text, Health(doors.board, doors.clock, stuck_after_ns=SECOND_NS), "0.1.0")

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
            headers = {"X-Prometheus-Scrape-Timeout-Seconds": "0.01"}
            late = await client.get("/metrics", headers=headers)
            go_on.set()
            return [late.status_code, (await client.get("/metrics")).status_code]

    assert asyncio.run(ask()) == [503, 200]


@pytest.mark.parametrize("patience", ["nonsense", "-1", "inf", "nan", "", "5"])
def test_a_patience_that_is_none_is_not_heard(doors: Doors, patience: str) -> None:
    """Whatever stands in the header, a text that can be made is answered."""
    doors.publish(full_snapshot())
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": patience}
    assert doors.get("/metrics", headers).status_code == 200


def test_the_format_is_negotiated(doors: Doors) -> None:
    """Classic text by default, OpenMetrics where it is preferred, gzip where it is accepted."""
    doors.publish(full_snapshot())
    plain = {"accept-encoding": "identity"}
    classic = doors.get("/metrics", headers=plain)
    assert classic.headers["content-type"].startswith("text/plain; version=")
    assert "content-encoding" not in classic.headers
    wanted = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", **plain}
    opened = doors.get("/metrics", headers=wanted)
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")
    packed = doors.get("/metrics", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "Accept, Accept-Encoding"
    assert packed.content == classic.content


def test_health_follows_the_settlement_thread(doors: Doors) -> None:
    """The process is unhealthy once the thread has been silent for too long, and heals."""
    assert doors.get("/healthz").status_code == 200
    doors.clock.advance(31 * SECOND_NS)
    stuck = doors.get("/healthz")
    assert stuck.status_code == 503
    assert "no life for 31.0 s" in stuck.text
    doors.board.beat(doors.clock.monotonic_ns())
    assert doors.get("/healthz").text == "ok\n"


def test_readiness_waits_for_the_first_settlement(doors: Doors) -> None:
    """Alive is not ready: there is nothing to show yet."""
    assert doors.get("/healthz").status_code == 200
    assert doors.get("/readyz").status_code == 503
    doors.publish(replace(full_snapshot(), degraded=()))
    assert doors.get("/readyz").text == "ok\n"
    doors.clock.advance(60 * SECOND_NS)
    assert doors.get("/readyz").status_code == 503


def test_what_is_degraded_is_said_and_served(doors: Doors) -> None:
    """A failing collector or a locked ledger does not take the numbers away."""
    ledger = LedgerCounts(up=False, commits=4, failures=2, waiting=3, reason="database is locked")
    doors.publish(replace(full_snapshot(), ledger=ledger))
    ready = doors.get("/readyz")
    assert ready.status_code == 200
    assert ready.text.splitlines() == [
        "ok",
        "degraded: the ledger is unavailable, 3 ticks wait: database is locked",
        "degraded: collector host failed 3 times: procfs is not readable",
    ]
    text = doors.get("/metrics").text
    assert "apportion_ledger_up 0.0" in text
    assert "apportion_agent_degraded 2.0" in text
    assert 'apportion_collector_success{collector="host"} 0.0' in text


def test_an_agent_that_stops_says_what_it_leaves_behind() -> None:
    """With a full disk the last tick fails like those before it, and nobody would know."""
    assert Facts().left_behind is None
    said = Facts(ledger_waiting=3, ledger_reason="disk full").left_behind or ""
    assert said.startswith("what 3 ticks have read is not in the ledger (disk full): ")


def test_a_ledger_that_never_worked_is_not_ready(doors: Doors) -> None:
    """Without one commit nothing has been settled that a restart would find."""
    ledger = LedgerCounts(up=False, failures=1, waiting=1, reason="disk full")
    doors.publish(replace(full_snapshot(), ledger=ledger))
    assert doors.get("/readyz").status_code == 503
    assert doors.get("/healthz").status_code == 200


def test_going_down_is_not_ready(doors: Doors) -> None:
    """A cluster stops sending scrapes before the process is gone."""
    doors.publish(full_snapshot())
    doors.board.stop()
    assert doors.get("/readyz").status_code == 503
    assert doors.get("/healthz").status_code == 200


@contextmanager
def _running(service: HttpService) -> Generator[str, None, None]:
    service.start()
    stop = threading.Event()
    thread = threading.Thread(target=service.run, args=(stop,), daemon=True)
    thread.start()
    host, port = service.address
    try:
        yield f"http://{host}:{port}"
    finally:
        stop.set()
        thread.join(20)
        service.shutdown(0)
        assert not thread.is_alive()


def _ask(url: str) -> httpx.Response:
    """GET, once the server has come to accept; the socket listens from `start` on."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url, timeout=5)
    raise TimeoutError(url)


def test_a_real_server_serves_many_scrapers_at_once(doors: Doors) -> None:
    """Scrapes at the same time get the same whole text, over a real socket, on a free port."""
    doors.publish(full_snapshot())
    answers: list[bytes] = []
    with _running(HttpService(doors.app, "127.0.0.1", 0)) as url:
        _ask(f"{url}/healthz")

        def scrape() -> None:
            answers.append(_ask(f"{url}/metrics").content)

        threads = [threading.Thread(target=scrape) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(answers) == 16
    assert len(set(answers)) == 1
    assert gzip.compress(answers[0])


def test_the_address_is_logged(doors: Doors, caplog: pytest.LogCaptureFixture) -> None:
    """With port 0 the log is where a person or a script finds the real one."""
    service = HttpService(doors.app, "127.0.0.1", 0)
    with caplog.at_level("INFO"):
        service.start()
    assert f"listening on http://127.0.0.1:{service.address[1]}" in caplog.text
    service.shutdown(0)


def test_a_port_that_is_taken_is_a_clear_refusal(doors: Doors) -> None:
    """The daemon does not start half: the address and the remedy are named."""
    first = HttpService(doors.app, "127.0.0.1", 0)
    first.start()
    _, port = first.address
    second = HttpService(doors.app, "127.0.0.1", port)
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*`listen`"):
        second.start()
    first.shutdown(0)
    second.shutdown(0)
    with pytest.raises(RuntimeError, match="not started"):
        _ = second.address
