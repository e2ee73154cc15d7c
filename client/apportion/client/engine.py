# ruff: noqa: SLF001 - what no public method takes is said of a span
"""What an inference engine in this process says of its requests, joined with what came by HTTP.

A request of such a server is seen twice: the ASGI middleware knows who asked, and the engine's
plugin knows its tokens and when it really ran. It is one request all the same. The middleware
announces it, and what the engine says of it, by its id, goes before what the middleware saw.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterator
from contextvars import Context
from typing import Final

from apportion.client import layout
from apportion.client.announced import Announced, Told, write
from apportion.client.counting import count
from apportion.client.serving import request
from apportion.client.span import Span

_REMEMBERED: Final = 1024
_SAMPLE: Final = re.compile(r"^\d+_")
_KIND: Final = re.compile(r"^(?:generate-tokens|generative-scoring|[a-z]+)-")
_PART: Final = re.compile(r"(?:-prompt)?[-_]\d+$")
_PARTED: Final = "cmpl-"
"""Behind ids of this kind vLLM always sets the number of the prompt."""
_TOLD_LATER: Final = layout.FLAG_TOLD_LATER << layout.FLAGS_SHIFT
_PACKED_WORD: Final = layout.OPEN_SLOT_OFFSETS["packed"] // 8
_RESPONSE: Final = "resp_"
"""Ids of OpenAI's responses are vLLM's own: nothing leads from them to the caller's."""


class EngineRequests:
    """Requests that are under way in this process's engines, by the ids that their callers know."""

    def __init__(self) -> None:
        self.speaks = False
        """Whether an engine's plugin was loaded: it tells of each request at its end."""
        self.model: str | None = None
        """What it serves, by its own word."""
        self._announced: dict[str, list[Announced]] = {}
        self._unscheduled: list[Announced] = []
        self._queued: dict[int, int] = {}
        self._ended: deque[int] = deque(maxlen=_REMEMBERED)
        """Hashes of the ids that ended last; an id can be as long as a header."""
        self._leaves_responses = False

    def announce(self, request_id: str, path: str, span: Span) -> Announced | None:
        """A request has come, and `span` is open; None where no engine will tell of it."""
        if not self.speaks or not span:
            return None
        if path.endswith("/responses"):
            self._leaves_responses = True
            span.scheduled()  # else it would count as having waited only
            return None
        span._bits |= _TOLD_LATER
        span._show(_PACKED_WORD, span._bits)
        announced = Announced(span)
        self._announced.setdefault(request_id, []).append(announced)
        self._unscheduled.append(announced)
        return announced

    def queue(self, engine: int, waiting: int) -> None:
        """So many requests wait in an engine; where none waits in any, all announced ones run.

        Until a request's end nothing says better when it was admitted.
        """
        self._queued[engine] = waiting
        if self._unscheduled and not any(self._queued.values()):
            running, self._unscheduled = self._unscheduled, []
            for each in running:
                each.span.scheduled()

    def forget(self, request_id: str, announced: Announced) -> None:
        """It has ended: what is told of it from now on comes too late."""
        same = self._announced[request_id]
        same.remove(announced)
        if not same:
            del self._announced[request_id]
        if announced in self._unscheduled:
            self._unscheduled.remove(announced)
        self._ended.append(hash(request_id))

    def tell(self, engine_id: str, told: Told) -> None:
        """A request has finished in an engine. One that nobody announced is recorded as it is."""
        for within in ids_within(engine_id):
            same = self._announced.get(within)
            if same is not None:
                # Of several with one id, one that nothing is known of yet.
                chosen = next((each for each in same if not each.is_told_of), same[0])
                chosen.tell(engine_id, told)
                return
        if any(hash(within) in self._ended for within in ids_within(engine_id)):
            count("engine_late")
        elif not (self._leaves_responses and engine_id.startswith(_RESPONSE)):
            # The context may be that of another request, which is not around this one.
            Context().run(_record, engine_id, told, self.model)


def ids_within(engine_id: str) -> Iterator[str]:
    """The callers' ids that an engine's may contain, the likeliest first.

    vLLM puts the kind of a request before its id, and the numbers of prompts and samples around. It
    reads headers as Latin-1, and callers write them in UTF-8.
    """
    yield from _within(engine_id)
    if not engine_id.isascii():
        with contextlib.suppress(UnicodeError):
            yield from _within(engine_id.encode("latin-1").decode())


def _within(engine_id: str) -> tuple[str, str]:
    prompt = _SAMPLE.sub("", engine_id)
    whole = _KIND.sub("", prompt)
    short = _PART.sub("", whole)
    return (short, whole) if prompt.startswith(_PARTED) else (whole, short)


def _record(engine_id: str, told: Told, model: str | None) -> None:
    span = request(engine_id, model=model).start()
    if span:
        start_ns = told.queued_ns or told.scheduled_ns or told.end_ns
        write(span, told, told.status, start_ns)


engine_requests: Final = EngineRequests()
