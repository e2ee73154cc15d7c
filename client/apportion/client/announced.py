"""A request that came by HTTP and stays open until its engine has told of it."""
# ruff: noqa: SLF001 - an engine's times lie in the past, which no public method takes

from __future__ import annotations

import asyncio
from time import monotonic_ns
from typing import Final, NamedTuple

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.span import Span
from apportion.client.status import status_named
from apportion.client.surroundings import surroundings

_ENGINE: Final = layout.FLAG_ENGINE << layout.FLAGS_SHIFT
GRACE_SECONDS: Final = 1.0
"""An engine that has not told of a request so long after its answer will not do so any more."""


class Told(NamedTuple):
    """One finished request, as its engine measured it.

    Times are those of `time.monotonic_ns()`; they are 0, and tokens None, where not known.
    """

    queued_ns: int
    scheduled_ns: int
    first_token_ns: int
    end_ns: int
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    preemptions: int | None
    status: str
    """`ok`, `error` or `cancelled`."""
    engine: int | None = None
    """Index of the engine in its server; None where not known, or where it was in several."""


class Announced:
    """An open span, and what was told of it so far."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._told: dict[str, Told] = {}
        self._more: asyncio.Event | None = None
        """Set when more was told, where that is waited for."""
        self._loop = asyncio.get_running_loop()

    @property
    def is_told_of(self) -> bool:
        """Whether its engine has said anything of it."""
        return bool(self._told)

    def tell(self, engine_id: str, told: Told) -> None:
        """Take what the engine says of it, or of one prompt or one sample of it."""
        before = self._told.get(engine_id)
        self._told[engine_id] = told if before is None else _merged(before, told, one_prompt=True)
        more = self._more
        if more is None:
            return
        if surroundings.running_loop() is self._loop:  # waking it costs two system calls
            more.set()
        else:
            self._loop.call_soon_threadsafe(more.set)

    def is_told(self, output_tokens: int | None) -> bool:
        """Whether it was told of `output_tokens`, or of any where that is None."""
        told = sum(each.output_tokens or 0 for each in self._told.values())
        return bool(self._told) and told >= (output_tokens or 0)

    async def until_told(self, output_tokens: int | None) -> None:
        """Wait until that is so; not for long.

        The engine tells in the same turn of the event loop in which the last token comes, or soon.
        """
        self._more = more = asyncio.Event()  # before the look: another thread may tell in between
        deadline = self._loop.time() + GRACE_SECONDS
        while not self.is_told(output_tokens):
            more.clear()
            try:
                await asyncio.wait_for(more.wait(), deadline - self._loop.time())
            except asyncio.TimeoutError:
                count("engine_silent")
                if not self.span._scheduled_ns:  # an answer was made, so that it did not only wait
                    self.span._scheduled_ns = self.span._start_ns
                return

    def finish(self, status: str) -> None:
        """End its span with what was told. `status` is what its caller saw, unless that was ok."""
        whole, *parts = self._told.values()
        for part in parts:
            whole = _merged(whole, part, one_prompt=False)
        write(self.span, whole, whole.status if status == "ok" else status)


def _merged(one: Told, other: Told, *, one_prompt: bool) -> Told:
    """Tokens of several prompts count all; several samples of one prompt read it once."""
    inputs = (one.input_tokens, one.cached_input_tokens)
    if not one_prompt:
        inputs = (
            _sum(one.input_tokens, other.input_tokens),
            _sum(one.cached_input_tokens, other.cached_input_tokens),
        )
    statuses = {one.status, other.status}
    return Told(
        _first(one.queued_ns, other.queued_ns),
        _first(one.scheduled_ns, other.scheduled_ns),
        _first(one.first_token_ns, other.first_token_ns),
        max(one.end_ns, other.end_ns),
        *inputs,
        _sum(one.output_tokens, other.output_tokens),
        _sum(one.preemptions, other.preemptions),
        next(each for each in ("error", "cancelled", "ok") if each in statuses),
        one.engine if one.engine == other.engine else None,
    )


def _first(one_ns: int, other_ns: int) -> int:
    return min(one_ns, other_ns) if one_ns and other_ns else one_ns or other_ns


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def write(span: Span, told: Told, status: str, start_ns: int | None = None) -> None:
    """End an open span as its engine measured it, with its times in the order that times have.

    `start_ns` is when it began, where the span only begins with its record.
    """
    span.add(
        told.input_tokens,
        told.cached_input_tokens,
        told.output_tokens,
        preemptions=told.preemptions,
    )
    if not span._full:
        span._fill()
    if told.engine is not None:
        span._engine = told.engine
        span._bits |= _ENGINE
    if start_ns is not None:
        span._start_ns = min(start_ns, span._start_ns)
    edge_ns = span._start_ns
    end_ns = max(edge_ns, min(told.end_ns, monotonic_ns()))
    if told.scheduled_ns:
        span._scheduled_ns = edge_ns = max(edge_ns, min(told.scheduled_ns, end_ns))
    if told.first_token_ns:
        span._first_token_ns = max(edge_ns, min(told.first_token_ns, end_ns))
    span._end(status_named(status), end_ns)
