"""SGLang's forward passes, as its schedulers publish them (`--enable-forward-pass-metrics`).

Each data-parallel rank publishes over ZeroMQ at the endpoint `<name>.<rank>`: three frames, an
empty topic, a number of 8 bytes, and a msgpack map of the names below (SGLang 0.5.23,
`srt/observability/forward_pass_metrics.py`). A message has no time: an iteration ended when it
was heard of, and what it took is the device's own span. An idle scheduler sends zeros each second.
Counts are all that is in them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import zmq

from apportion.client.iterations import Iteration

SCHEME: Final = "ipc://"
VERSION: Final = 1
"""Of the messages; another means that their fields mean something else."""
FRAMES: Final = 3
MOST_BYTES: Final = 1 << 12
"""Of a message: a real one has 530."""
_MOST_FRAME: Final = 1 << 20
"""Who sends more is cut off by ZeroMQ before it is in memory, and called again."""
MOST_QUEUED: Final = 10_000
"""Messages of a rank that wait to be heard; what is sent beyond is lost, and missed by number."""
MOST_RANKS: Final = 1_024
_LOOK_S: Final = 1.0
_AGAIN_MS: Final = (100, 2_000)
"""So soon ZeroMQ calls a server that is away, and so late after some tries."""
_NS: Final = 1_000_000_000
_LONGEST_S: Final = 600.0

_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_Rank = Annotated[int, msgspec.Meta(ge=0, lt=MOST_RANKS)]


class _Scheduled(msgspec.Struct, frozen=True, gc=False):
    num_prefill_requests: _Count = 0
    sum_prefill_tokens: _Count = 0
    num_decode_requests: _Count = 0


class _Message(msgspec.Struct, frozen=True, gc=False):
    counter_id: _Count
    scheduled_requests: _Scheduled
    dp_rank: _Rank = 0
    wall_time: float = 0.0


class _Versioned(msgspec.Struct, frozen=True, gc=False):
    version: int


_VERSION: Final = msgspec.msgpack.Decoder(_Versioned)
_MESSAGE: Final = msgspec.msgpack.Decoder(_Message)


class ForwardPasses:
    """Hears the ranks of several services. `counts` are messages by what became of them.

    One thread uses it. A server may start later, and again: its ranks are found when they bind.
    """

    def __init__(
        self,
        names: Sequence[tuple[str, str]],
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`names` are services and what each server has as `--forward-pass-metrics-ipc-name`."""
        self._names, self._monotonic_ns = names, monotonic_ns
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: dict[zmq.Socket[bytes], str] = {}
        self._connected: set[tuple[str, str]] = set()
        self._counts: Counter[str] = Counter()
        self._look_ns = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """Messages so far: heard, broken, foreign (of a version that is not known)."""
        return dict(self._counts)

    def hear(self, wait_s: float) -> Iterator[tuple[str, Iteration]]:
        """What arrives within this time, by service, in the order in which each rank sent it."""
        until_ns = self._monotonic_ns() + round(wait_s * _NS)
        while True:
            now_ns = self._monotonic_ns()
            if now_ns >= self._look_ns:
                self._look_ns = now_ns + round(_LOOK_S * _NS)
                self._connect()
            for socket, _ in self._poller.poll(max(0, until_ns - now_ns) // 1_000_000):
                yield from self._of_socket(socket)
            if self._monotonic_ns() >= until_ns:
                return

    def close(self) -> None:
        """Hear nothing more."""
        for socket in self._sockets:
            socket.close(linger=0)
        self._sockets.clear()
        self._context.term()

    def _of_socket(self, socket: zmq.Socket[bytes]) -> Iterator[tuple[str, Iteration]]:
        # No more than this at once: another rank, or the log, waits too.
        for _ in range(MOST_QUEUED):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            found = self._iteration(frames, self._monotonic_ns())
            if found is not None:
                yield self._sockets[socket], found

    def _iteration(self, frames: Sequence[bytes], heard_ns: int) -> Iteration | None:
        found = told_iteration(frames, heard_ns)
        self._counts[found if isinstance(found, str) else "heard"] += 1
        return None if isinstance(found, str) else found

    def _connect(self) -> None:
        for service, name in self._names:
            for endpoint in ranks_of(name):
                known = (service, endpoint)
                if known in self._connected or len(self._connected) >= MOST_RANKS:
                    continue
                socket = self._context.socket(zmq.SUB)
                socket.setsockopt(zmq.MAXMSGSIZE, _MOST_FRAME)
                socket.setsockopt(zmq.RCVHWM, MOST_QUEUED)
                for option, wait_ms in zip(_AGAIN, _AGAIN_MS, strict=True):
                    socket.setsockopt(option, wait_ms)
                socket.setsockopt(zmq.SUBSCRIBE, b"")
                socket.connect(endpoint)
                self._poller.register(socket, zmq.POLLIN)
                self._sockets[socket] = service
                self._connected.add(known)


def ranks_of(name: str) -> list[str]:
    """The endpoints of a server's ranks that are bound, or were: `ipc://<path>.<rank>`."""
    path = Path(name.removeprefix(SCHEME))
    begin = f"{path.name}."
    try:
        found = sorted(each.name for each in path.parent.iterdir() if each.name.startswith(begin))
    except OSError:  # it is not there yet
        return []
    ranks = [f"{path}.{each.removeprefix(begin)}" for each in found]
    ranks = [each for each in ranks if each.rpartition(".")[2].isdecimal()]
    # What no socket's path can be ZeroMQ refuses.
    return [f"{SCHEME}{each}" for each in ranks if len(os.fsencode(each)) <= _LONGEST_PATH]


_LONGEST_PATH: Final = 107
_AGAIN: Final = (zmq.RECONNECT_IVL, zmq.RECONNECT_IVL_MAX)


def told_iteration(
    frames: Sequence[bytes], heard_ns: int
) -> Iteration | Literal["broken", "foreign"]:
    """What a message says that was heard at this time (`time.monotonic_ns`), or why it is none."""
    if len(frames) != FRAMES or len(frames[-1]) > MOST_BYTES:
        return "broken"
    try:
        if _VERSION.decode(frames[-1]).version != VERSION:
            return "foreign"
        message = _MESSAGE.decode(frames[-1])
    except (msgspec.DecodeError, RecursionError):
        return "broken"
    if not 0 <= message.wall_time <= _LONGEST_S:  # NaN too
        return "broken"
    return _iteration(message, heard_ns)


def _iteration(message: _Message, heard_ns: int) -> Iteration:
    scheduled = message.scheduled_requests
    return Iteration(
        message.dp_rank,
        message.counter_id,
        heard_ns,
        round(message.wall_time * _NS),
        scheduled.num_prefill_requests,
        scheduled.sum_prefill_tokens,
        scheduled.num_decode_requests,
        scheduled.num_decode_requests,  # a token each; drafts are not said
    )
