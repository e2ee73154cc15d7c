"""SIMULATED: a continuous-batching engine on a roofline, to make traces whose truth is known.

Chunked prefill under a token budget, at most six prefills an iteration, admission while the batch
has room. On the parameters of the published golden trace it gives that trace's times to within
a microsecond, which a test holds; nothing here was measured on hardware.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from apportion.core.device_facts import DeviceFacts
from apportion.cost.methods.model_facts import ModelFacts
from apportion.cost.methods.roofline import Roofline
from apportion.cost.methods.trace import IterationCounts, Iterations, Trace
from apportion.cost.replay.iterations_file import BatchRow, CountsRow, Member
from apportion.cost.replay.requests_file import RequestRow

TOKEN_BUDGET = 2048
MAX_PREFILLS = 6
MAX_BATCH = 256
LLAMA = ModelFacts("llama-3.1-8b", 8_030_000_000, 8_030_000_000, 32, 32, 8, 128)
"""With the rounded parameter count that the golden trace was made with."""
H100 = DeviceFacts("NVIDIA H100 80GB HBM3", 989e12, 3350e9, 1979e12)
ROOFLINE = Roofline.of(LLAMA, H100)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests as they come, shape n, by time."""

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    def scaled(self, *, prompts: int, answers: int, rate: float) -> Arrivals:
        """Prompts times `prompts`, answers over `answers`, arrivals `rate` times as fast."""
        return Arrivals(
            self.arrival_s / rate,
            self.prompt_tokens * prompts,
            np.maximum(1, self.output_tokens // answers),
        )


@dataclass(slots=True)
class _Request:
    index: int
    name: str
    prompt: int
    output: int
    done: int = 0
    context: int = 0
    start_s: float = 0.0
    first_token_s: float = 0.0
    finish_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """A run: what a sidecar would see of it, and what only the engine knows."""

    trace: Trace
    iterations: Iterations
    counts: IterationCounts
    roofline: Roofline = ROOFLINE
    """What made it, and what the methods know."""


@dataclass(slots=True)
class _Engine:
    roofline: Roofline
    waiting: deque[_Request] = field(default_factory=deque["_Request"])
    prefilling: list[_Request] = field(default_factory=list["_Request"])
    decoding: list[_Request] = field(default_factory=list["_Request"])

    @property
    def empty(self) -> bool:
        return not (self.waiting or self.prefilling or self.decoding)

    def step(self, now_s: float) -> tuple[float, list[tuple[_Request, int, int]], int]:
        """Runs one iteration: its end, (request, new, context), how many were prefills."""
        chunks = self._chunks(now_s)
        batch = [(r, new, r.context) for r, new in chunks]
        batch += [(r, 1, r.context) for r in self.decoding]
        sizes = np.array([(new, context) for _, new, context in batch], dtype=np.float64)
        end_s = now_s + self.roofline.iteration_s(sizes[:, 0], sizes[:, 1])
        going = [r for r in self.decoding if self._decoded(r, end_s)]
        for request, new in chunks:
            request.context += new
            if request.context >= request.prompt:
                self.prefilling.remove(request)
                request.first_token_s, request.done = end_s, 1
                if request.output <= 1:
                    request.finish_s = end_s
                else:
                    going.append(request)
        self.decoding = going
        return end_s, batch, len(chunks)

    def _chunks(self, now_s: float) -> list[tuple[_Request, int]]:
        left, chunks = TOKEN_BUDGET - len(self.decoding), list[tuple[_Request, int]]()
        for request in self.prefilling:
            if left > 0 and len(chunks) < MAX_PREFILLS:
                chunks.append((request, min(left, request.prompt - request.context)))
                left -= chunks[-1][1]
        while self.waiting and left > 0 and len(chunks) < MAX_PREFILLS:
            if len(self.prefilling) + len(self.decoding) >= MAX_BATCH:
                break
            request = self.waiting.popleft()
            request.start_s = now_s
            self.prefilling.append(request)
            chunks.append((request, min(left, request.prompt)))
            left -= chunks[-1][1]
        return chunks

    @staticmethod
    def _decoded(request: _Request, end_s: float) -> bool:
        request.context += 1
        request.done += 1
        if request.done >= request.output:
            request.finish_s = end_s
            return False
        return True


def simulate(arrivals: Arrivals, roofline: Roofline = ROOFLINE) -> Simulated:
    """Run all of `arrivals` to their end."""
    requests = [
        _Request(index, f"req-{index:05d}", int(prompt), int(output))
        for index, (prompt, output) in enumerate(
            zip(arrivals.prompt_tokens, arrivals.output_tokens, strict=True)
        )
    ]
    engine, coming, now_s = _Engine(roofline), 0, 0.0
    batches: list[BatchRow] = []
    counts: list[CountsRow] = []
    while coming < len(requests) or not engine.empty:
        while coming < len(requests) and arrivals.arrival_s[coming] <= now_s:
            engine.waiting.append(requests[coming])
            coming += 1
        if engine.empty:
            now_s = float(arrivals.arrival_s[coming])
            continue
        end_s, batch, prefills = engine.step(now_s)
        line, begin_ns, end_ns = len(batches) + 1, _ns(now_s), _ns(end_s)
        members = sorted(Member(r.name, new, context) for r, new, context in batch)
        batches.append(BatchRow(line, begin_ns, end_ns, tuple(members)))
        prefill_tokens = sum(new for _, new, _ in batch[:prefills])
        decodes = len(batch) - prefills
        counts.append(
            CountsRow(line, end_ns, end_ns - begin_ns, prefills, prefill_tokens, decodes, decodes)
        )
        now_s = end_s
    rows = [
        RequestRow(
            r.name, _ns(r.start_s), _ns(r.first_token_s), _ns(r.finish_s), r.prompt, 0, r.output, ""
        )
        for r in requests
    ]
    trace = Trace.of(rows)
    return Simulated(trace, Iterations.of(batches, trace), IterationCounts.of(counts), roofline)


def made_up(count: int, seed: int) -> Arrivals:
    """Arrivals shaped as published chat traces are: bursts, log-normal lengths."""
    random = np.random.default_rng(seed)
    gaps_s = random.exponential(0.16, count)
    return Arrivals(
        np.cumsum(gaps_s),
        np.clip(random.lognormal(6.6, 1.0, count), 1, 8_000).astype(np.int64),
        np.clip(random.lognormal(4.9, 0.9, count), 1, 1_000).astype(np.int64),
    )


def _ns(time_s: float) -> int:
    return round(time_s * 1e9)
