"""How the tests of the examples run them: as a user would, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.examples.forks import ForkedExample, Forks

from apportion.client import layout

DEADLINE_SECONDS = 60.0
RECORD = np.dtype(
    {
        "names": [name for name, _, _ in layout.RECORD_FIELDS],
        "formats": [
            {"Q": "u8", "q": "i8", "I": "u4"}.get(code, f"V{code[:-1]}")
            for _, _, code in layout.RECORD_FIELDS
        ],
        "offsets": [offset for _, offset, _ in layout.RECORD_FIELDS],
        "itemsize": layout.RECORD_BYTES,
    }
)
KINDS = {number: name for name, number in layout.KINDS.items()}
STATUSES = {number: name for name, number in layout.STATUSES.items()}
PHASES = {number: name for name, number in layout.PHASES.items()}


@dataclass(frozen=True)
class Span:
    """A record of a ring, with its numbers as words."""

    kind: str
    status: str
    phase: str | None
    tenant: str
    request_id: str
    values: dict[str, int]


@dataclass(frozen=True)
class Ring:
    """What one process wrote down."""

    identity: dict[str, Any]
    ready_ns: int
    closed_ns: int
    spans: list[Span]

    def of(self, kind: str) -> list[Span]:
        """The spans of one kind."""
        return [span for span in self.spans if span.kind == kind]


@dataclass(frozen=True)
class Server:
    """A running example server."""

    process: ForkedExample
    http: httpx.Client
    decisions: Path
    """The log of what its guards decided."""

    def complete(self, prompt: str, *, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """One completion that is not streamed: the response's body."""
        body = {"model": "gpt-small", "prompt": prompt, **body}
        response = self.http.post("/v1/completions", json=body, headers=headers or {})
        response.raise_for_status()
        return response.json()

    def stop(self) -> int:
        """End it with SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)


@pytest.fixture
def rings(tmp_path: Path) -> Path:
    """The directory in which the examples make their rings."""
    directory = tmp_path / "rings"
    directory.mkdir()
    return directory


@pytest.fixture
def environment(rings: Path) -> dict[str, str]:
    """The examples' environment."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("APPORTION_")}
    return {**inherited, "APPORTION_RING_DIR": str(rings), "PYTHONWARNINGS": "default"}


@pytest.fixture
def run_example(repository: Path, environment: dict[str, str], forks: Forks) -> Callable[..., str]:
    """Run an example to its end: `run_example("train_gpt.py", "--steps", 2)` is its output."""

    def run(program: str, *arguments: object) -> str:
        path = repository / "examples" / program
        with closing(forks.start(path, [*map(str, arguments)], environment)) as process:
            status = process.wait(DEADLINE_SECONDS)
            assert (status, process.stderr.read()) == (0, "")
            return process.stdout.read()

    return run


@pytest.fixture
def server(
    repository: Path, environment: dict[str, str], tmp_path: Path, forks: Forks
) -> Iterator[Server]:
    """An example server with two rows, warm."""
    decisions = tmp_path / "decisions.jsonl"
    program = repository / "examples" / "serve_lm.py"
    options = ["--max-batch", "2", "--decisions", str(decisions)]
    with closing(forks.start(program, options, environment)) as process:
        # A server that never gets warm must not hold up the test for ever.
        timer = threading.Timer(DEADLINE_SECONDS, process.send_signal, [signal.SIGKILL])
        timer.start()
        try:
            line = process.stdout.readline()
        finally:
            timer.cancel()
        assert line, process.stderr.read()
        ready = json.loads(line)
        url = f"http://127.0.0.1:{ready['port']}"
        with httpx.Client(base_url=url, timeout=DEADLINE_SECONDS, trust_env=False) as http:
            yield Server(process, http, decisions)


@pytest.fixture
def read_ring(rings: Path) -> Callable[[], Ring]:
    """Read the one ring that was made; an empty one as long as it is not complete."""

    def read() -> Ring:
        paths = list(rings.glob(f"*{layout.FILE_SUFFIX}"))
        assert len(paths) <= 1
        data = paths[0].read_bytes() if paths else b""
        if int.from_bytes(data[:8], sys.byteorder) != layout.MAGIC:
            return Ring({}, 0, 0, [])
        return decode(data)

    return read


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Look at a condition until it holds; fail after a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it did not become true in a minute"
            time.sleep(0.02)

    return wait


def decode(data: bytes) -> Ring:
    """A ring file's content, of a writer that has not wrapped around."""

    def header(name: str) -> int:
        return int(np.frombuffer(data, "i8", 1, layout.HEADER_OFFSETS[name])[0])

    def word(index: int) -> str:
        at = layout.WORDS_OFFSET + layout.WORD_BYTES * index
        length = int(np.frombuffer(data, "u8", 1, at)[0]) & 0xFFFF
        return data[at + layout.WORD_TEXT_OFFSET :][:length].decode()

    def span(record: Any) -> Span:
        packed = int(record["packed"])
        raw_id = bytes(record["request_id"])
        names = [name for name, _, code in layout.RECORD_FIELDS if not code.endswith("s")]
        return Span(
            kind=KINDS[packed >> layout.KIND_SHIFT & 255],
            status=STATUSES[packed >> layout.STATUS_SHIFT & 255],
            phase=PHASES.get(packed >> layout.PHASE_SHIFT & 255),
            tenant=word(int(record["tenant"])),
            request_id=raw_id[2 : 2 + raw_id[0]].decode(),
            values={name: int(record[name]) for name in names},
        )

    identity = data[layout.IDENTITY_OFFSET :][: header("identity_length")]
    records = np.frombuffer(data, RECORD, offset=layout.RECORDS_OFFSET)
    return Ring(
        identity=json.loads(identity),
        ready_ns=header("ready_ns"),
        closed_ns=header("closed_ns"),
        spans=[span(record) for record in records if record["sequence"]],
    )
