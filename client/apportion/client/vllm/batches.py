"""Who was in which iteration of an engine, written down in few records.

A request is mostly scheduled alike in one iteration after the other: a chunk of its prompt each,
then a token each. So one record says for how many iterations, and a request has two or three of
them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from time import monotonic_ns
from typing import Any, Final

from apportion.client import iterations
from apportion.client.engine import ids_within
from apportion.client.iterations import Iteration, Scheduled

_INTERNAL: Final = re.compile(r"-[0-9a-f]{8}$")
"""vLLM puts so much behind each id within its engine."""
_SWEEP: Final = 1024
"""Iterations after which those are looked for that were aborted."""


class _Turns:
    """Iterations in a row in which a request was scheduled with as many tokens."""

    __slots__ = ("context", "first", "is_prefill", "next", "start_ns", "tokens")

    def __init__(
        self, first: int, tokens: int, context: int, start_ns: int, *, is_prefill: bool
    ) -> None:
        self.first, self.next = first, first + 1
        self.tokens, self.context, self.start_ns = tokens, context, start_ns
        self.is_prefill = is_prefill


class BatchLog:
    """The iterations of one engine, as its scheduler makes them; they end in the same order."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._number = 0
        self._end_ns = 0
        self._turns: dict[str, _Turns] = {}
        self._last: dict[str, int] = {}
        self._repeats = 0
        """How often the last batch came again; its turns do not say so yet."""
        self._counts = (0, 0, 0, 0)
        self._under_way: deque[tuple[object, int, int, tuple[int, int, int, int]]] = deque()

    def scheduled(
        self, output: object, batch: Mapping[str, int], requests: Mapping[str, Any]
    ) -> None:
        """An iteration begins: tokens by request. `output` names it when it ends."""
        if not batch:
            return
        number, start_ns = self._number, monotonic_ns()
        self._number = number + 1
        if batch == self._last:  # nearly always: nobody comes or goes
            self._repeats += 1
        else:
            self._repeat()
            self._counts = self._take(number, start_ns, batch, requests)
            self._last = dict(batch)
        self._under_way.append((output, number, start_ns, self._counts))

    def _repeat(self) -> None:
        if self._repeats:
            for name in self._last:
                known = self._turns.get(name)
                if known is not None:
                    known.next += self._repeats
            self._repeats = 0

    def _take(
        self, number: int, start_ns: int, batch: Mapping[str, int], requests: Mapping[str, Any]
    ) -> tuple[int, int, int, int]:
        """Go on with turns or begin others; prefill requests and tokens, decode likewise."""
        turns = self._turns
        prefills = prefill_tokens = decode_tokens = 0
        for name, tokens in batch.items():
            known = turns.get(name)
            if known is not None and known.next == number and known.tokens == tokens:
                known.next = number + 1
            else:
                if known is not None:
                    self._write(name, known)
                request = requests[name]
                context = request.num_computed_tokens - tokens
                is_prefill = context < request.num_prompt_tokens
                known = _Turns(number, tokens, context, start_ns, is_prefill=is_prefill)
                turns[name] = known
            if known.is_prefill:
                prefills += 1
                prefill_tokens += tokens
            else:
                decode_tokens += tokens
        return prefills, prefill_tokens, len(batch) - prefills, decode_tokens

    def ended(self, output: object, batch: Mapping[str, int], requests: Mapping[str, Any]) -> None:
        """The iteration that `output` names has ended; `requests` are those that go on."""
        if not batch:  # it was none
            return
        end_ns = monotonic_ns()
        while self._under_way:
            which, number, start_ns, counts = self._under_way.popleft()
            if which is output:
                elapsed_ns = end_ns - max(start_ns, self._end_ns)
                self._end_ns = end_ns
                told = Iteration(self._engine, number, end_ns, elapsed_ns, *counts)
                iterations.record(told, exact=True)
                break
        ended = batch.keys() - requests.keys()
        if not self._number % _SWEEP:
            ended |= self._turns.keys() - requests.keys()
        if ended:
            self._repeat()
            for name in sorted(ended):
                turns = self._turns.pop(name, None)
                if turns is not None:
                    self._write(name, turns)
            self._last = {}

    def _write(self, name: str, turns: _Turns) -> None:
        iterations.record_scheduled(
            Scheduled(
                next(ids_within(_INTERNAL.sub("", name))),
                self._engine,
                turns.first,
                turns.next - turns.first,
                turns.tokens,
                turns.context,
                turns.start_ns,
            )
        )
