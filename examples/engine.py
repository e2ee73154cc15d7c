"""A small inference engine: continuous batching over one model, in one thread.

Each iteration admits waiting completions while rows of the key-value cache are free, computes
their prompts, and then one more token for all active ones in one batch.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from apportion import client
from gpt import Gpt, KeyValueCache, Places
from guard import DecisionLog, Guard
from json_grammar import JsonGrammar
from prefix_cache import PrefixCache

PREFILL_TOKENS: Final = 256
"""Prompt tokens that one iteration computes at most (or one prompt): decoding goes on meanwhile."""
PREFIX_BLOCKS: Final = 256
PRINTABLE: Final = (32, 127)
"""The model has no vocabulary of its own, so it speaks the printable part of ASCII: a token is a
character, and counting what was streamed counts tokens."""

log = logging.getLogger("engine")


COMPLETE: Final = frozenset({"length", "stop", "content_filter"})
"""Reasons for which a completion ends as it should."""


class QueueFullError(Exception):
    """As many completions wait as may; the caller is to come back later."""


@dataclass(frozen=True)
class Progress:
    """What an iteration brought to one completion: a token, the end, or both."""

    text: str
    finish_reason: str | None = None
    """None while it goes on; then length, stop, content_filter, cancelled or error."""


class Completion:
    """One prompt on its way through the engine.

    `on_progress` is called by the engine's thread. `cancel` may be called by any thread, at any
    time, any number of times.
    """

    def __init__(
        self,
        prompt: bytes,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        span: client.Span,
        on_progress: Callable[[Progress], object],
        request_id: str = "",
        tenant: str | None = None,
        grammar: JsonGrammar | None = None,
    ) -> None:
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.span = span
        self.on_progress = on_progress
        self.request_id, self.tenant = request_id, tenant
        self.grammar = grammar
        self.cached_tokens = 0
        self.output = bytearray()
        self.cancelled = False
        self.row = -1
        self.generator = torch.Generator().manual_seed(seed)

    def cancel(self) -> None:
        """Ask the engine to drop it before its next iteration."""
        self.cancelled = True

    def choose(self, logits: Tensor) -> int:
        """The next token, from the logits (vocabulary) of the last."""
        first, end = PRINTABLE
        printable = logits[first:end]
        if self.grammar is not None:
            with self.span.phase("constrain"):
                allowed = self.grammar.allowed(self.max_tokens - len(self.output))
                mask = torch.full_like(printable, -torch.inf)
                mask[[ord(character) - first for character in allowed]] = 0
                printable = printable + mask
        if self.temperature == 0:
            return first + int(printable.argmax())
        odds = torch.softmax(printable / self.temperature, dim=0)
        return first + int(torch.multinomial(odds, 1, generator=self.generator))


class Engine:
    """The engine's thread and its queue."""

    def __init__(
        self,
        model: Gpt,
        *,
        max_batch: int,
        max_waiting: int,
        threads: int,
        guard: Guard | None = None,
        decisions: DecisionLog | None = None,
    ) -> None:
        """Prompts and answers go past `guard`, if there is one; `decisions` writes it down."""
        self._guard = guard
        self._decisions = decisions or DecisionLog(None, 1.0)
        self._model = model.eval()
        self._device = model.embedding.weight.device
        self._cache = KeyValueCache(model.shape, max_batch, self._device)
        self._prefixes = PrefixCache(PREFIX_BLOCKS)
        self._free_rows = list(range(max_batch))
        self._active: list[Completion] = []
        self._waiting: deque[Completion] = deque()
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = threads
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Compute the shortest and the longest batch once, then start the thread."""
        self._warm()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its iteration; what is still running or waiting is cancelled."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, completion: Completion) -> None:
        """Queue a completion, whose span starts here.

        Raises:
            QueueFullError: as many wait as may.
        """
        with self._changed:
            if self._stopping or len(self._waiting) >= self._max_waiting:
                raise QueueFullError(f"{len(self._waiting)} completions wait already")
            completion.span = completion.span.start()
            self._waiting.append(completion)
            self._changed.notify()

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while self._wait_for_work():
                self._try_to_iterate()
        for completion in [*self._active, *self._waiting]:
            self._end(completion, "cancelled")

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting or self._active)
            return not self._stopping

    def _try_to_iterate(self) -> None:
        try:
            self._iterate()
        except Exception:
            # One bad iteration must not take the server down with it; what was in it has no next
            # token and ends here.
            log.exception("an iteration over %d completions failed", len(self._active))
            for completion in list(self._active):
                self._end(completion, "error")

    def _iterate(self) -> None:
        for gone in [completion for completion in self._active if completion.cancelled]:
            self._end(gone, "cancelled")
        # What is admitted now gets its first token from its prompt, the others one from the batch.
        decoding = list(self._active)
        budget = PREFILL_TOKENS
        while budget > 0 and (admitted := self._admit()):
            budget -= self._prefill(admitted)
        if decoding:
            self._decode(decoding)

    def _admit(self) -> Completion | None:
        """The next waiting completion, with a row of its own; None without one or without a row."""
        while self._free_rows:
            with self._changed:
                if not self._waiting:
                    return None
                completion = self._waiting.popleft()
            if not completion.cancelled:
                completion.row = self._free_rows.pop()
                completion.span.scheduled()
                self._active.append(completion)
                return completion
            self._end(completion, "cancelled")
        return None

    def _prefill(self, completion: Completion) -> int:
        """Compute a prompt and its first token; returns how many tokens were not cached."""
        prompt, row = completion.prompt, completion.row
        if not self._passes(completion, "guard_input", prompt):
            self._end(completion, "content_filter")
            return 0
        completion.cached_tokens = self._prefixes.restore(prompt, self._cache, row)
        completion.span.add(input_tokens=len(prompt), cached_input_tokens=completion.cached_tokens)
        computed = range(completion.cached_tokens, len(prompt))
        logits = self._forward([row], [list(computed)], [list(prompt[computed.start :])])[0]
        self._prefixes.remember(prompt, self._cache, row)
        completion.span.first_token()
        self._take(completion, logits)
        return len(computed)

    def _decode(self, batch: list[Completion]) -> None:
        """One more token for each completion of the batch."""
        logits = self._forward(
            [completion.row for completion in batch],
            [[len(completion.prompt) + len(completion.output) - 1] for completion in batch],
            [[completion.output[-1]] for completion in batch],
        )
        for completion, its_logits in zip(batch, logits, strict=True):
            self._take(completion, its_logits)

    def _forward(
        self, rows: list[int], positions: list[list[int]], tokens: list[list[int]]
    ) -> Tensor:
        """One forward pass; the last logits of each row, (rows, vocabulary), on the CPU."""
        device = self._device
        places = Places(
            self._cache,
            torch.tensor(rows, device=device),
            torch.tensor(positions, device=device),
        )
        logits: Tensor = self._model(torch.tensor(tokens, device=device), places)
        return logits[:, -1].cpu()

    def _take(self, completion: Completion, logits: Tensor) -> None:
        token = completion.choose(logits)
        completion.output.append(token)
        grammar = completion.grammar
        if grammar is not None:
            grammar.take(chr(token))
        ended = grammar is not None and grammar.ended
        if not ended and len(completion.output) < completion.max_tokens:
            completion.on_progress(Progress(chr(token)))
        elif self._passes(completion, "guard_output", bytes(completion.output)):
            self._end(completion, "stop" if ended else "length", chr(token))
        else:
            self._end(completion, "content_filter")

    def _passes(self, completion: Completion, stage: str, text: bytes) -> bool:
        """Whether the guard lets a text through: a phase of the request, and a line of the log."""
        if self._guard is None:
            return True
        with completion.span.phase(stage):
            score = self._guard.score(text)
        return self._decisions.note(completion.request_id, completion.tenant, stage, score)

    def _end(self, completion: Completion, finish_reason: str, text: str = "") -> None:
        """Free what it held, close its span and tell its caller."""
        if completion.row >= 0:
            self._active.remove(completion)
            self._free_rows.append(completion.row)
            completion.row = -1
        completion.span.add(output_tokens=len(completion.output))
        completion.span.finish("ok" if finish_reason in COMPLETE else finish_reason)
        completion.on_progress(Progress(text, finish_reason))

    @torch.inference_mode()
    def _warm(self) -> None:
        """Touch the code and the memory that the first request would otherwise wait for."""
        torch.set_num_threads(self._threads)  # OpenMP keeps it for each thread apart
        rows = list(self._free_rows)
        for tokens in (1, self._model.shape.context):
            positions = [list(range(tokens)) for _ in rows]
            self._forward(rows, positions, positions)
