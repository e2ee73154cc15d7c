"""Forward passes of SGLang over a real ZeroMQ socket, in messages of the shape of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from tests.client.decoded import only

from apportion.client import layout
from apportion.client.iterations import Iteration
from apportion.doors.forward_passes import (
    MOST_BYTES,
    ForwardPasses,
    ranks_of,
    told_iteration,
)
from apportion.doors.span_rings import SpanRings

HEARD_NS = 5_000_000_000


class Scheduled(msgspec.Struct):
    """As SGLang 0.5.23 writes them: maps, each field by its name."""

    num_prefill_requests: int = 0
    sum_prefill_tokens: int = 0
    var_prefill_length: float = 0.0
    sum_prefill_kv_tokens: int = 0
    num_decode_requests: int = 0
    sum_decode_kv_tokens: int = 0
    var_decode_kv_tokens: float = 0.0


class Queued(msgspec.Struct):
    num_prefill_requests: int = 0
    sum_prefill_tokens: int = 0
    var_prefill_length: float = 0.0
    num_decode_requests: int = 0
    sum_decode_kv_tokens: int = 0
    var_decode_kv_tokens: float = 0.0


class Metrics(msgspec.Struct):
    version: int = 1
    worker_id: str = ""
    dp_rank: int = 0
    counter_id: int = 0
    wall_time: float = 0.0
    scheduled_requests: Scheduled = msgspec.field(default_factory=Scheduled)
    queued_requests: Queued = msgspec.field(default_factory=Queued)


def message(number: int, scheduled: Scheduled | None = None, **said: Any) -> list[bytes]:
    """The three frames of one."""
    metrics = Metrics(
        worker_id="w", counter_id=number, scheduled_requests=scheduled or Scheduled(), **said
    )
    return [b"", number.to_bytes(8, "big"), msgspec.msgpack.encode(metrics)]


BATCH = Scheduled(num_prefill_requests=2, sum_prefill_tokens=300, num_decode_requests=5)


def test_what_a_message_says() -> None:
    """It ended when it was heard of, and each decoding request made a token."""
    found = told_iteration(message(7, BATCH, dp_rank=1, wall_time=0.0125), HEARD_NS)
    assert found == Iteration(1, 7, HEARD_NS, 12_500_000, 2, 300, 5, 5)


def test_a_heartbeat_keeps_its_number() -> None:
    """An idle scheduler sends zeros: an iteration of nobody, so that no number is missing."""
    assert told_iteration(message(8), HEARD_NS) == Iteration(0, 8, HEARD_NS, 0, 0, 0, 0, 0)


def test_what_a_later_version_adds_is_left_out() -> None:
    """Fields by name may come; what is not known is not looked at."""
    frames = message(7, BATCH)
    document = msgspec.msgpack.decode(frames[2]) | {"prompt": "not kept", "deep": [[{}]]}
    changed = [*frames[:2], msgspec.msgpack.encode(document)]
    assert told_iteration(changed, HEARD_NS) == told_iteration(frames, HEARD_NS)


@pytest.mark.parametrize(
    ("frames", "outcome"),
    [
        (message(1, version=2), "foreign"),
        (message(1)[:2], "broken"),
        ([b"more", *message(1)], "broken"),
        (message(1, wall_time=float("nan")), "broken"),
        (message(1, wall_time=-0.1), "broken"),
        (message(1, wall_time=1e9), "broken"),
        (message(1, dp_rank=-1), "broken"),
        (message(1, dp_rank=1 << 20), "broken"),
        (message(1, Scheduled(num_decode_requests=-5)), "broken"),
        (message(1, Scheduled(sum_prefill_tokens=1 << 60)), "broken"),
        ([b"", b"", msgspec.msgpack.encode([1, "w", 0, 5, 0.1])], "broken"),
        ([b"", b"", msgspec.msgpack.encode({"version": 1})], "broken"),
        ([b"", b"", b"\x91" * 2_000], "broken"),
        ([b"", b"", message(1)[2] + bytes(MOST_BYTES)], "broken"),
        ([], "broken"),
    ],
)
def test_what_cannot_be_is_counted_by_its_reason(frames: list[bytes], outcome: str) -> None:
    """A version whose fields mean something else is no broken message: the operator can act."""
    assert told_iteration(frames, HEARD_NS) == outcome


@given(
    st.one_of(st.binary(max_size=64), st.integers(0, 700).map(lambda n: message(9, BATCH)[2][:n]))
)
def test_any_bytes_are_a_message_or_none(payload: bytes) -> None:
    """Cut short or made up: an answer, and never an exception."""
    found = told_iteration([b"", bytes(8), payload], HEARD_NS)
    assert isinstance(found, Iteration) == (payload == message(9, BATCH)[2])
    assert isinstance(found, Iteration) or found in {"broken", "foreign"}


class Rank:
    """A rank's PUB socket, as SGLang binds one."""

    def __init__(self, path: Path, rank: int) -> None:
        self.context = zmq.Context()
        # A PUB that tells when somebody listens.
        self.socket: zmq.Socket[bytes] = self.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.RCVTIMEO, 60_000)
        self.socket.bind(f"ipc://{path}.{rank}")

    def listened_to(self, passes: ForwardPasses) -> None:
        """Until its first subscriber is there: what is sent before is sent to nobody."""
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        for _ in range(600):
            assert not list(passes.hear(0))
            if poller.poll(100):
                self.socket.recv()
                return
        raise AssertionError("nobody has subscribed")

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fpm"


@pytest.fixture
def passes(path: Path) -> Iterator[ForwardPasses]:
    passes = ForwardPasses([("chat", f"ipc://{path}")])
    with contextlib.closing(passes):
        yield passes


def heard(passes: ForwardPasses, wanted: int) -> list[Iteration]:
    """So many, however long they take."""
    found: list[Iteration] = []
    for _ in range(600):
        found += [iteration for service, iteration in passes.hear(0.1) if service == "chat"]
        if len(found) >= wanted:
            break
    return found


def test_ranks_are_found_when_they_bind_and_when_they_come_again(
    path: Path, passes: ForwardPasses
) -> None:
    """Two data-parallel ranks, and one of them restarted; nonsense in between costs itself."""
    assert not list(passes.hear(0))
    passes._look_ns = 0
    ranks = [Rank(path, 0), Rank(path, 1)]
    path.with_name("fpm.lock").touch()
    for rank in ranks:
        rank.listened_to(passes)
    for number in range(3):
        for index, rank in enumerate(ranks):
            rank.socket.send_multipart(message(number, BATCH, dp_rank=index))
            rank.socket.send_multipart([b"nonsense"])
    found = heard(passes, 6)
    assert sorted((each.engine, each.number) for each in found) == [
        (engine, number) for engine in (0, 1) for number in range(3)
    ]
    for engine in (0, 1):
        ends = [each.end_ns for each in found if each.engine == engine]
        assert ends == sorted(ends)
    ranks[0].close()
    ranks[0] = Rank(path, 0)
    ranks[0].listened_to(passes)
    ranks[0].socket.send_multipart(message(0, BATCH))
    assert [(each.engine, each.number) for each in heard(passes, 1)] == [(0, 0)]
    for rank in ranks:
        rank.close()
    assert passes.counts["heard"] == 7


def test_names_that_no_socket_can_have(tmp_path: Path) -> None:
    """Only a number behind the dot is a rank, and what is too long for a socket is left out."""
    for name in ("fpm.0", "fpm.12", "fpm.x", "fpm.", "fpm0", "f[p]m.3"):
        (tmp_path / name).touch()
    base = f"ipc://{tmp_path}/fpm"
    assert ranks_of(base) == [f"{base}.0", f"{base}.12"]
    assert ranks_of(f"ipc://{tmp_path}/f[p]m") == [f"ipc://{tmp_path}/f[p]m.3"]
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    (deep / "fpm.0").touch()
    assert ranks_of(f"ipc://{deep}/fpm") == []


def test_into_the_service_s_ring(tmp_path: Path) -> None:
    """As vLLM's plugin writes them: engine, number, times and counts, beside the requests."""
    rings = SpanRings(tmp_path, {"chat": ["GPU-1"]})
    assert rings.write_iteration("chat", Iteration(1, 7, HEARD_NS, 2_000_000, 2, 300, 5, 5))
    found = only(tmp_path)
    rings.close()
    (record,) = found.records
    assert found.identity["kind"] == layout.DOOR
    assert record["kind"] == layout.KINDS["iteration"]
    assert (record["engine"], record["start_ns"], record["end_ns"]) == (1, 4_998_000_000, HEARD_NS)
    fields = {name: record[field] for name, field in layout.ITERATION_FIELDS.items()}
    assert fields == {
        "index": 7,
        "prefill_requests": 2,
        "prefill_tokens": 300,
        "decode_requests": 5,
        "decode_tokens": 5,
    }
