"""Who was in which iteration of an engine, written down in few records.

A request is mostly scheduled alike in one iteration after the other: a chunk of its prompt each,
then a token each. So one record says for how many iterations, and a request has two or three of
them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
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
        self._under_way: deque[tuple[object, int, int, tuple[int, int, int, int]]] = deque()

    def scheduled(
        self, output: object, batch: Mapping[str, int], requests: Mapping[str, Any]
    ) -> None:
        """An iteration begins: tokens by request. `output` names it when it ends."""
        if not batch:
            return
        number, start_ns = self._number, monotonic_ns()
        self._number = number + 1
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
        counts = (prefills, prefill_tokens, len(batch) - prefills, decode_tokens)
        self._under_way.append((output, number, start_ns, counts))

    def ended(
        self, output: object, batch: Mapping[str, int], is_there: Callable[[str], bool]
    ) -> None:
        """The iteration that `output` names has ended; `is_there` says which requests go on."""
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
        for name in batch:
            if not is_there(name):
                self._forget(name)
        if not self._number % _SWEEP:
            for name in [each for each in self._turns if not is_there(each)]:
                self._forget(name)

    def _forget(self, name: str) -> None:
        turns = self._turns.pop(name, None)
        if turns is not None:
            self._write(name, turns)

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
