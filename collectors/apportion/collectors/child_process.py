"""A child process that may hang: read without blocking, abandoned without waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Final

from apportion.collectors.schema import one_line

_CHUNK_BYTES: Final = 64 * 1024
_MOST_BYTES_AT_ONCE: Final = 4 * 1024 * 1024
_TAIL_BYTES: Final = 2_000
_SHORTEST_SECRET: Final = 8


class ChildProcess:
    """A started command with pipes on its three streams. Only `ending` and `end` may wait.

    Closing its standard input tells it to end. It runs in a session of its own, so that a
    terminal's interrupt reaches the parent only.

    Raises:
        OSError: the command could not be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=self._environment,
            start_new_session=True,
        )
        self._output = _stream(self._process.stdout)
        self._errors = _stream(self._process.stderr)
        os.set_blocking(_stream(self._process.stdin).fileno(), False)
        os.set_blocking(self._output.fileno(), False)
        os.set_blocking(self._errors.fileno(), False)
        self._tail = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def read(self) -> tuple[bytes, bool]:
        """What it wrote since the last call (at most 4 MiB), and whether its output is open."""
        self._read_errors()
        arrived = bytearray()
        while len(arrived) < _MOST_BYTES_AT_ONCE:
            try:
                chunk = os.read(self._output.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                return bytes(arrived), True
            if not chunk:
                return bytes(arrived), False
            arrived += chunk
        return bytes(arrived), True

    def write(self, data: bytes) -> None:
        """Give it a few bytes to read; they are lost where it has no room or is gone."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._process.stdin.fileno(), data)

    def last_words(self) -> str:
        """The end of its standard error on one line, without values of its environment."""
        self._read_errors()
        text = self._tail.decode(errors="replace").strip()
        by_length = sorted(self._environment.items(), key=lambda item: -len(item[1]))
        for name, value in by_length:
            if len(value) >= _SHORTEST_SECRET:
                text = text.replace(value, f"${name}")
        return one_line(text.replace("\n", " | "), _TAIL_BYTES)

    def ending(self, grace_ns: int = 0) -> str | None:
        """How it ended, as a sentence's predicate; None while it runs.

        A process that closed its output is a moment away from its end: `grace_ns` waits for it.
        """
        try:
            status = self._process.wait(grace_ns / 1e9)
        except subprocess.TimeoutExpired:
            return None
        if status >= 0:
            return f"exited with status {status}"
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"

    def abandon(self) -> None:
        """Kill it and close the pipes, without waiting: `ending` says when it is gone."""
        self._close_pipes()
        if self._process.poll() is None:
            self._process.kill()

    def end(self, timeout_ns: int) -> bool:
        """Ask it to end, wait up to `timeout_ns`, then kill it. True if it ended by itself."""
        self._close_pipes()
        try:
            self._process.wait(timeout_ns / 1e9)
        except subprocess.TimeoutExpired:
            self.abandon()
            return False
        return True

    def _read_errors(self) -> None:
        if self._errors.closed:
            return
        for _ in range(_MOST_BYTES_AT_ONCE // _CHUNK_BYTES):
            try:
                chunk = os.read(self._errors.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                return
            if not chunk:
                return
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]

    def _close_pipes(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    """A pipe that was asked for is there; this says so to the type checker too."""
    if stream is None:
        raise OSError("the operating system gave no pipe to the child process")
    return stream
