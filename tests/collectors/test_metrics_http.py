"""Reading a text over HTTP from servers that behave badly; each is a real one on loopback."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.collectors.metrics_server import MetricsServer, answer, unused_port

from apportion.collectors.metrics_http import read_text
from apportion.collectors.target import Target
from apportion.core.clock import SystemClock
from apportion.core.errors import SourceLost

CLOCK = SystemClock()
SECOND = 10**9
TEXT = 'up{a="b"} 1\n'
PACKED = gzip.compress(TEXT.encode() * 1_000)


def read(place: str, *, patience_ns: int = 20 * SECOND, largest_bytes: int = 1_000_000) -> str:
    target = Target.parse(place, {})
    deadline_ns = CLOCK.monotonic_ns() + patience_ns
    return read_text(target, CLOCK, deadline_ns=deadline_ns, largest_bytes=largest_bytes)


def refused(place: str, match: str, **options: int) -> None:
    with pytest.raises(SourceLost, match=match) as lost:
        read(place, **options)
    assert "Bearer" not in str(lost.value)


def test_a_text(server: MetricsServer) -> None:
    """One request in the classic format, without compression."""
    server.text = TEXT
    assert read(server.url) == TEXT
    (headers,) = server.headers
    assert headers["Accept"].startswith("text/plain")
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == f"127.0.0.1:{server.port}"


def test_a_password_is_sent(server: MetricsServer) -> None:
    """Basic authentication, from the URL."""
    server.text = TEXT
    read(server.url.replace("http://", "http://user:word@"))
    assert server.headers[0]["Authorization"] == "Basic dXNlcjp3b3Jk"


def test_bytes_that_are_no_utf8(server: MetricsServer) -> None:
    """They become replacement characters in their own label."""
    server.manners = lambda handler: answer(handler, b'up{a="\xff"} 1\n')
    assert read(server.url) == 'up{a="\N{REPLACEMENT CHARACTER}"} 1\n'


def test_nothing_listens() -> None:
    """The usual case before an engine is up."""
    refused(f"http://127.0.0.1:{unused_port()}", "connection refused: nothing listens there")


def test_no_such_host() -> None:
    """A name that is not known (reserved to be unknown)."""
    refused("http://nowhere.invalid:9400", r"nowhere\.invalid:9400: ")


@pytest.mark.parametrize("status", [401, 404, 500, 503, 204])
def test_another_status(server: MetricsServer, status: int) -> None:
    """dcgm-exporter answers 500 when any of its collectors failed: nothing of it is believed."""
    server.manners = lambda handler: answer(handler, TEXT.encode(), status=status)
    refused(server.url, f"answered {status}")


def test_html(server: MetricsServer) -> None:
    """The page of something else."""
    server.manners = lambda handler: answer(
        handler, b"\n<html>up 1</html>\n", Content_Type="text/html"
    )
    refused(server.url, "HTML")


def test_gzip(server: MetricsServer) -> None:
    """From a proxy that packs without being asked."""
    server.manners = lambda handler: answer(handler, PACKED, Content_Encoding="gzip")
    assert read(server.url) == TEXT * 1_000


@pytest.mark.parametrize(
    "body", [PACKED[:-20], PACKED * 2, b"not gzip at all"], ids=["short", "twice", "text"]
)
def test_gzip_that_is_broken(server: MetricsServer, body: bytes) -> None:
    """Cut, followed by more, or not gzip."""
    server.manners = lambda handler: answer(handler, body, Content_Encoding="gzip")
    refused(server.url, "gzip|header check")


def test_a_small_answer_that_unpacks_to_a_large_one(server: MetricsServer) -> None:
    """It is given up at the bound, not unpacked."""
    packed = gzip.compress(b"a" * 50_000_000)
    server.manners = lambda handler: answer(handler, packed, Content_Encoding="gzip")
    refused(server.url, "more than 1000000 bytes")


def test_an_encoding_that_nobody_asked_for(server: MetricsServer) -> None:
    """Not guessed at."""
    server.manners = lambda handler: answer(handler, TEXT.encode(), Content_Encoding="br")
    refused(server.url, "'br'")


def test_a_gigabyte(server: MetricsServer) -> None:
    """The connection is dropped at the bound: the server cannot send the rest."""
    sent: list[int] = []
    cut = threading.Event()

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        block = b"up 1\n" * 20_000
        try:
            for _ in range(10_000):
                handler.wfile.write(block)
                sent.append(len(block))
        finally:
            cut.set()

    server.manners = flood
    refused(server.url, "more than 1000000 bytes")
    assert cut.wait(20)
    assert sum(sent) < 500_000_000


def test_an_answer_that_ends_early(server: MetricsServer) -> None:
    """A length that was promised and not kept."""
    body = TEXT.encode()
    server.manners = lambda handler: answer(handler, body, length=len(body) + 7)
    refused(server.url, "ended 7 bytes too early")


def chunked(handler: BaseHTTPRequestHandler, *chunks: bytes) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
    handler.close_connection = True


def test_chunks(server: MetricsServer) -> None:
    """As aiohttp and Go send what they stream."""
    server.manners = lambda handler: chunked(handler, TEXT.encode(), TEXT.encode(), b"")
    assert read(server.url) == TEXT * 2


def test_chunks_that_end_early(server: MetricsServer) -> None:
    """Without the last chunk the text is not whole."""
    server.manners = lambda handler: chunked(handler, TEXT.encode())
    refused(server.url, "IncompleteRead")


@pytest.mark.parametrize("where", ["before", "headers", "body"])
def test_a_server_that_drips(server: MetricsServer, where: str) -> None:
    """A byte now and then never meets a time-out per read; the deadline ends it all the same."""
    done = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        start = {
            "before": b"",
            "headers": b"HTTP/1.1 200 OK\r\n",
            "body": b"HTTP/1.1 200 OK\r\n\r\n",
        }
        handler.wfile.write(start[where])
        try:
            while not done.wait(0.02):
                handler.wfile.write(b"X: y\r\n" if where == "headers" else b"u")
        except OSError:
            done.set()

    server.manners = drip
    try:
        refused(
            server.url,
            "did not answer completely in time|BadStatusLine|LineTooLong",
            patience_ns=SECOND // 2,
        )
    finally:
        done.set()


def test_a_server_that_says_nothing(server: MetricsServer) -> None:
    """It accepts, and that is all."""
    done = threading.Event()
    server.manners = lambda handler: (done.wait(30), None)[1]
    try:
        refused(server.url, "did not answer completely in time", patience_ns=SECOND // 5)
    finally:
        done.set()


def redirecting(location: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def manners(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/real?x=1":
            answer(handler, TEXT.encode())
        else:
            answer(handler, b"", status=307, Location=location)

    return manners


def test_a_redirect_on_the_same_server(server: MetricsServer) -> None:
    """Followed: FastAPI sends /metrics to /metrics/."""
    server.manners = redirecting("/real?x=1")
    assert read(server.url) == TEXT
    assert server.requests == ["/metrics", "/real?x=1"]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:1/metrics",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "//other/",
        "https://[broken",
        "http://user@127.0.0.1/",
    ],
)
def test_a_redirect_to_elsewhere(server: MetricsServer, location: str) -> None:
    """Not followed: the agent must not be led to a metadata service or a file."""
    server.manners = redirecting(location)
    refused(server.url, "redirects to another server")
    assert server.requests == ["/metrics"]


def test_redirects_in_a_circle(server: MetricsServer) -> None:
    """They end."""
    server.manners = redirecting("/metrics")
    refused(server.url, "more than 3 times")


def test_a_recorded_text(tmp_path: Path) -> None:
    """A path instead of a URL."""
    (tmp_path / "a.prom").write_text(TEXT)
    assert read(str(tmp_path / "a.prom")) == TEXT
    assert read(f"file://{tmp_path}/a.prom") == TEXT


def test_what_is_no_recorded_text(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe without a writer, a file that is too large."""
    refused(str(tmp_path / "missing"), "No such file")
    refused(str(tmp_path), "not a plain file|Is a directory")
    os.mkfifo(tmp_path / "pipe")
    refused(str(tmp_path / "pipe"), "not a plain file")
    (tmp_path / "large").write_text("a 1\n" * 300_000)
    refused(str(tmp_path / "large"), "more than 1000000 bytes")
