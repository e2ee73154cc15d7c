"""One look for all readers, and a target that is left alone while it is down."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.collectors.metrics_server import MetricsServer, answer, unused_port

from apportion.collectors.scrape import (
    FAILURES_TO_OPEN,
    LONGEST_PAUSE_NS,
    Scrape,
    look_at_all,
)
from apportion.collectors.target import Target
from apportion.core.clock import ManualClock, SystemClock

SECOND = 10**9


def made(place: str, **options: int) -> tuple[Scrape, ManualClock]:
    clock = ManualClock(monotonic_ns=100 * SECOND)
    return Scrape(Target.parse(place, {}), clock, {"up"}, **options), clock


def test_one_look_serves_all_readers(server: MetricsServer) -> None:
    """Within the cache's time the server is asked once."""
    server.text = "up 1\nother 2\n"
    scrape, clock = made(server.url, cache_ns=2 * SECOND)
    first = scrape.look()
    assert first.text is not None
    assert [each.value for each in first.text.samples["up"]] == [1]
    assert first.text.names == {"up", "other"}
    clock.advance(2 * SECOND - 1)
    assert scrape.look() is first
    clock.advance(1)
    assert scrape.look() is not first
    assert len(server.requests) == 2


def test_the_breaker(server: MetricsServer) -> None:
    """Three failures open it; one try after each pause, which doubles; a success closes it."""
    server.manners = lambda handler: answer(handler, b"", status=500)
    scrape, clock = made(server.url, cache_ns=SECOND, first_pause_ns=10 * SECOND)
    for _ in range(FAILURES_TO_OPEN):
        assert not scrape.is_open
        assert scrape.look().error == f"127.0.0.1:{server.port} answered 500 Internal Server Error"
        clock.advance(SECOND)
    assert scrape.is_open
    pause_ns, asked = 10 * SECOND, FAILURES_TO_OPEN
    for _ in range(8):
        clock.advance(pause_ns - SECOND - 1)
        assert scrape.look().error is not None
        assert len(server.requests) == asked
        clock.advance(1)
        scrape.look()
        asked += 1
        assert len(server.requests) == asked
        clock.advance(SECOND)
        pause_ns = min(2 * pause_ns, LONGEST_PAUSE_NS)
    server.manners, server.text = None, "up 1\n"
    clock.advance(pause_ns)
    assert scrape.look().error is None
    clock.advance(SECOND)
    scrape.look()
    assert len(server.requests) == asked + 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("up 1\nup 12", "ends in the middle of a line"),
        ("", "without any metric"),
        ("# HELP up nothing\n", "without any metric"),
        ("!!!\n" * 10, "without any metric"),
    ],
)
def test_a_text_that_is_not_whole(tmp_path: Path, text: str, error: str) -> None:
    """Nothing of it is used: a counter cut short would look like a reset."""
    path = tmp_path / "text"
    path.write_text(text)
    scrape, _ = made(str(path))
    scraped = scrape.look()
    assert scraped.text is None
    assert error in (scraped.error or "")


def test_the_time_is_the_middle_of_the_look(server: MetricsServer) -> None:
    """The values were taken somewhere in between."""
    scrape, clock = made(server.url)

    def slow(handler: object) -> None:
        clock.advance(2 * SECOND)
        answer(handler, b"up 1\n")  # type: ignore[arg-type]

    server.manners = slow
    scraped = scrape.look()
    assert (scraped.time_ns, scraped.duration_ns) == (101 * SECOND, 2 * SECOND)


def test_health_as_samples(server: MetricsServer) -> None:
    """Success, duration and what could not be read, by collector and target."""
    server.text = "up 1\nup x\n"
    scrape, clock = made(server.url)
    place = (("collector", "engines"), ("target", f"127.0.0.1:{server.port}"))
    assert {each.name: each.value for each in scrape.samples("engines", scrape.look())} == {
        "scrape_success": 1,
        "scrape_duration_seconds": 0,
        "scrape_malformed_lines": 1,
    }
    server.manners = lambda handler: answer(handler, b"", status=500)
    clock.advance(SECOND)
    failed = scrape.samples("engines", scrape.look())
    assert [(each.name, each.value) for each in failed] == [
        ("scrape_success", 0),
        ("scrape_duration_seconds", 0),
    ]
    assert all(each.labels == place for each in failed)


def test_one_that_hangs_keeps_nobody_waiting(server: MetricsServer) -> None:
    """The others' answers come; the hanging one is asked by one thread, however often one looks."""
    hang = threading.Event()
    server.manners = lambda handler: answer(handler, b"up 1\n" if hang.wait(30) else b"")
    clock = SystemClock()
    with MetricsServer().running() as other:
        other.text = "up 1\n"
        scrapes = [
            Scrape(Target.parse(url, {}), clock, {"up"}, deadline_ns=30 * SECOND, cache_ns=0)
            for url in (server.url, other.url, f"http://127.0.0.1:{unused_port()}")
        ]
        try:
            for _ in range(3):
                hanging, answered, refused = look_at_all(scrapes, clock, SECOND // 2)
                assert "has not answered an earlier look yet" in (hanging.error or "")
                assert answered.text is not None
                assert "connection refused" in (refused.error or "")
            assert len(server.requests) == 1
        finally:
            hang.set()
