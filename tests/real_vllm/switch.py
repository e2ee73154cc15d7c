"""What `apportion` does in a vLLM, switched off and on while it runs, or timed where it is.

    vllm serve ... --middleware switch.Middleware [--scheduler-cls switch.Scheduler]

$SWITCH is a file of three 64-bit words that all of vLLM's processes share with the test: which
`Turn` it is, and the nanoseconds of CPU time that ours took while it was timed, in the thread of
the HTTP server and in that of the engine. All requests are to have ended when it is turned.

Off, a request is vLLM's at the price of one look at the word, and so are each iteration's
statistics.
"""

from __future__ import annotations

import mmap
import os
import types
from collections.abc import Awaitable, Callable, Generator
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from time import thread_time_ns
from typing import Any, Final

from apportion.client.arrival import Message
from apportion.client.asgi import App, Receive, RequestMiddleware, Send
from apportion.client.vllm.batches import BatchLog
from apportion.client.vllm.scheduler import ExactScheduler
from apportion.client.vllm.stat_logger import StatLogger

WORDS: Final = 3
TURN, SERVER, ENGINE = range(WORDS)


class Turn(IntEnum):
    """Which way."""

    OFF = 0
    ON = 1
    TIMED = 2
    EMPTY = 3
    """Timed likewise, with nothing in the place of ours: what the timing itself adds."""


with Path(os.environ["SWITCH"]).open("r+b") as _file:
    _words = memoryview(mmap.mmap(_file.fileno(), 8 * WORDS)).cast("q")


def _reading_ns() -> int:
    """What one reading of the clock adds to the time between two."""
    readings = [thread_time_ns() for _ in range(1000)]
    gaps = sorted(after - before for before, after in pairwise(readings))
    return gaps[len(gaps) // 2]


_READING_NS: Final = _reading_ns()
_is_ours, _since_ns = False, 0


def _within(place: int, *, ours: bool) -> bool:
    """From now on this thread's time is ours, or is not; what it was before."""
    global _is_ours, _since_ns  # noqa: PLW0603 - of the one thread of a process that is timed
    before = _is_ours
    if before:
        _words[place] += thread_time_ns() - _since_ns - _READING_NS
    _is_ours = ours
    if ours:
        _since_ns = thread_time_ns()
    return before


@types.coroutine
def _steps(running: Awaitable[Any], *, ours: bool) -> Generator[Any, Any, Any]:
    """Run a coroutine; the time of each of its steps is ours, or is not."""
    steps: Any = running.__await__()
    answer: Any = None
    raised: BaseException | None = None
    while True:
        before = _within(SERVER, ours=ours)
        try:
            asked = steps.send(answer) if raised is None else steps.throw(raised)
        except StopIteration as done:
            return done.value
        finally:
            _within(SERVER, ours=before)
        raised = None
        try:
            answer = yield asked
        except BaseException as error:  # noqa: BLE001 - it is for the coroutine
            raised = error


def _timed(call: Callable[..., Awaitable[Any]], *, ours: bool) -> Callable[..., Awaitable[Any]]:
    async def calling(*arguments: Any) -> Any:
        return await call(*arguments)  # what it does before there is anything to await counts, too

    return lambda *arguments: _steps(calling(*arguments), ours=ours)


class _Nothing:
    """A middleware that passes all messages on."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def in_turn() -> Message:
            return await receive()

        async def on(message: Message) -> None:
            await send(message)

        await self._app(scope, in_turn, on)


class Middleware:
    """Ours, or the app itself."""

    def __init__(self, app: App) -> None:
        async def theirs(scope: Message, receive: Receive, send: Send) -> None:
            await _steps(
                app(scope, _timed(receive, ours=True), _timed(send, ours=True)), ours=False
            )

        self._app, self._ours = app, RequestMiddleware(app)
        self._timed: dict[int, App] = {
            Turn.TIMED: RequestMiddleware(theirs),
            Turn.EMPTY: _Nothing(theirs),
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection of the server."""
        turn = _words[TURN]
        if turn == Turn.OFF:
            await self._app(scope, receive, send)
        elif turn == Turn.ON:
            await self._ours(scope, receive, send)
        else:
            around = self._timed[turn]
            calls = (_timed(call, ours=False) for call in (receive, send))
            await _steps(around(scope, *calls), ours=True)


def _switched(of: type, name: str, place: int) -> None:
    """Make a method of ours do nothing while it is off."""
    method: Any = getattr(of, name)

    def switched(*arguments: Any, **named: Any) -> None:
        turn = _words[TURN]
        if turn == Turn.ON:
            method(*arguments, **named)
        elif turn != Turn.OFF:
            before = _within(place, ours=True)
            if turn == Turn.TIMED:
                method(*arguments, **named)
            _within(place, ours=before)

    setattr(of, name, switched)


_switched(StatLogger, "record", SERVER)
_switched(BatchLog, "scheduled", ENGINE)
_switched(BatchLog, "ended", ENGINE)


class Scheduler(ExactScheduler):
    """Ours, by a name that has this module imported where the engine is."""
