"""Reads the text at a target: within a deadline, within a size, and nothing but metrics.

The standard library's `http.client`, because nothing more is needed and it does not follow
redirects, proxies or other schemes by itself. Its time-outs are per operation; a server that sends
a byte a second would never meet one, so the socket's file here ends everything at one deadline.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final, cast
from urllib.parse import urljoin, urlsplit

from apportion.collectors.target import Target
from apportion.core.clock import Clock
from apportion.core.errors import SourceLost
from apportion.core.units import NS_PER_SECOND

LARGEST_BYTES: Final = 16 * 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024
_MOST_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {
    "Accept": "text/plain;version=0.0.4;q=1,*/*;q=0.1",
    "Accept-Encoding": "identity",
    "User-Agent": "apportion",
    "Connection": "close",
}
"""The classic format is asked for: OpenMetrics renames counters that lack `_total`."""


class HttpRefused(SourceLost):
    """The server answered with another status than 200."""

    def __init__(self, target: Target, status: int, reason: str) -> None:
        self.status = status
        super().__init__(f"{target.name} answered {status} {reason[:80]}")


def read_text(
    target: Target, clock: Clock, *, deadline_ns: int, largest_bytes: int = LARGEST_BYTES
) -> str:
    """The text at `target`, whole. `deadline_ns` is an instant of the monotonic clock.

    Only the look-up of a name may take longer than the deadline.

    Raises:
        SourceLost: it is not there, is not text of metrics, is larger than `largest_bytes`, ends
            early or is not complete at the deadline.
    """
    body = read_body(target, clock, deadline_ns=deadline_ns, largest_bytes=largest_bytes)
    if body.lstrip()[:1] == b"<":
        raise SourceLost(f"{target.name} answered with HTML, not with metrics: check the URL")
    return body.decode("utf-8", "replace")


def read_body(
    target: Target,
    clock: Clock,
    *,
    deadline_ns: int,
    largest_bytes: int = LARGEST_BYTES,
    headers: Mapping[str, str] = _HEADERS,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """As `read_text`, for any body; `tls` in place of the system's authorities.

    Raises:
        HttpRefused: the server answered with another status than 200.
        SourceLost: see `read_text`.
    """
    try:
        if target.file is not None:
            return _read_file(target, largest_bytes)
        return _Exchange(target, _Deadline(clock, deadline_ns), headers, tls).body(largest_bytes)
    except (OSError, HTTPException, zlib.error, EOFError) as error:
        raise SourceLost(f"{target.name}: {_sentence(error)}") from error


class _Deadline:
    """Seconds that are left; a socket whose every operation ends by then."""

    def __init__(self, clock: Clock, deadline_ns: int) -> None:
        self._clock = clock
        self._deadline_ns = deadline_ns

    def left_s(self) -> float:
        left_ns = self._deadline_ns - self._clock.monotonic_ns()
        if left_ns <= 0:
            raise TimeoutError
        return left_ns / NS_PER_SECOND


class _SocketFile(io.RawIOBase):
    """The reading side of a socket, which it closes. `http.client` gets its bytes through it."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.left_s())
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        super().close()
        self._sock.close()


class _Socket:
    """As much of a socket as `http.client` needs of one that is connected."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._is_read = False

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.left_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode
        self._is_read = True
        return io.BufferedReader(_SocketFile(self._sock, self._deadline))

    def close(self) -> None:
        # http.client closes its socket as soon as the response has the file, which goes on.
        if not self._is_read:
            self._sock.close()


class _Exchange:
    """One question to one server, and up to `_MOST_REDIRECTS` more to the same."""

    def __init__(
        self,
        target: Target,
        deadline: _Deadline,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._target, self._deadline, self._tls = target, deadline, tls
        self._headers = {**headers, "Host": target.host_header}
        if target.authorization is not None:
            self._headers["Authorization"] = target.authorization

    def body(self, largest_bytes: int) -> bytes:
        """What it answers, whole."""
        target, path = self._target, self._target.path
        for _ in range(_MOST_REDIRECTS + 1):
            connection = self._connection()
            with closing(connection):
                connection.connect()
                connection.sock = cast("Any", _Socket(connection.sock, self._deadline))
                connection.request("GET", path, headers=self._headers)
                with connection.getresponse() as response:
                    if response.status in _REDIRECTS:
                        path = _redirected(target, path, response)
                        continue
                    if response.status != 200:
                        raise HttpRefused(target, response.status, response.reason)
                    return _body(target, response, largest_bytes)
        raise SourceLost(f"{target.name} redirects more than {_MOST_REDIRECTS} times")

    def _connection(self) -> HTTPConnection:
        target, left_s = self._target, self._deadline.left_s()
        if target.scheme == "https":
            context = self._tls or _tls()
            return HTTPSConnection(target.host, target.port, timeout=left_s, context=context)
        return HTTPConnection(target.host, target.port, timeout=left_s)


@cache
def _tls() -> ssl.SSLContext:
    """The system's authorities, or those of SSL_CERT_FILE; loading them takes a while."""
    return ssl.create_default_context()


def _redirected(target: Target, path: str, response: HTTPResponse) -> str:
    """The path to go to on the same server: a redirect must not lead the agent elsewhere."""
    base = f"{target.scheme}://{target.host_header}"
    try:
        url = urlsplit(urljoin(f"{base}{path}", response.headers.get("Location", "")))
    except ValueError:
        url = urlsplit("")
    if f"{url.scheme}://{url.netloc}" != base or not url.path.isascii():
        raise SourceLost(f"{target.name} redirects to another server: configure its URL instead")
    return f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"


def _body(target: Target, response: HTTPResponse, largest_bytes: int) -> bytes:
    """The whole body, unpacked. A length that was promised and not kept is an error."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip", ""}:
        raise SourceLost(f"{target.name} answered in {encoding[:40]!r}, which was not asked for")
    packed = encoding.endswith("gzip")
    unpacker = zlib.decompressobj(wbits=31) if packed else None
    body = bytearray()
    for chunk in _chunks(response):
        if unpacker is None:
            body += chunk
        else:
            body += unpacker.decompress(chunk, largest_bytes + 1 - len(body))
        if len(body) > largest_bytes:
            raise SourceLost(
                f"{target.name} answered with more than {largest_bytes} bytes: no text of metrics"
            )
    if response.length:
        raise SourceLost(f"{target.name} ended {response.length} bytes too early")
    if unpacker is not None and (not unpacker.eof or unpacker.unused_data):
        raise SourceLost(f"{target.name} ended inside or beyond its gzip stream")
    return bytes(body)


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What arrives, piece by piece; `read1` returns what is there."""
    while chunk := response.read1(_CHUNK_BYTES):
        yield chunk


def _read_file(target: Target, largest_bytes: int) -> bytes:
    """A recorded text: a plain file, not a pipe that would never end."""
    if target.file is None:
        return b""
    fd = os.open(target.file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SourceLost(f"{target.name} is not a plain file")
        body = stream.read(largest_bytes + 1)
    if len(body) > largest_bytes:
        raise SourceLost(f"{target.name} has more than {largest_bytes} bytes: no text of metrics")
    return body


def _sentence(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "did not answer completely in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {str(error)[:200]}"
