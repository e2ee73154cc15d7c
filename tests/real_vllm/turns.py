"""Turns of the same requests at a vLLM, what they took, and how two ways of it compare."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from benchmarks.estimate import Estimate
from tests.real_vllm.programs import Program
from tests.real_vllm.traffic import answers

REQUESTS: Final = 48
"""A turn: some seconds."""
TRIMMED: Final = 0.1
"""Turns are few."""


class Turn(NamedTuple):
    """What some requests took."""

    seconds: float
    cpu_seconds: float
    server_cpu_seconds: float
    """Of the process that answers HTTP."""
    tokens: int


class Server:
    """A vLLM that runs, and its processes."""

    def __init__(self, program: Program, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        process = psutil.Process(program.pid)
        self._pids = [program.pid, *(each.pid for each in process.children(recursive=True))]

    def turn(self) -> Turn:
        """The requests, all of them answered."""
        before = [_cpu_seconds(pid) for pid in self._pids]
        begun = time.perf_counter()
        told = answers(self._url, REQUESTS)
        seconds = time.perf_counter() - begun
        spent = [_cpu_seconds(pid) - was for pid, was in zip(self._pids, before, strict=True)]
        return Turn(seconds, sum(spent), spent[0], sum(each.output_tokens for each in told))


def _cpu_seconds(pid: int) -> float:
    """Of all its threads, by the scheduler."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


class Pairs:
    """Rounds of two turns."""

    def __init__(self) -> None:
        self.without: list[Turn] = []
        self.with_ours: list[Turn] = []

    def __len__(self) -> int:
        return len(self.without)

    def add(self, of: Mapping[bool, Turn]) -> None:
        """A round, by whether ours was there."""
        self.without.append(of[False])
        self.with_ours.append(of[True])

    def slower(self) -> Estimate:
        """What part of the throughput is missing: how much longer the same requests took."""
        return self._ratio("seconds")

    def dearer(self) -> Estimate:
        """How much more CPU time the same requests took."""
        return self._ratio("cpu_seconds")

    def _ratio(self, name: str) -> Estimate:
        mine, theirs = (
            [getattr(turn, name) for turn in turns] for turns in (self.with_ours, self.without)
        )
        return Estimate.of_ratios(mine, theirs, TRIMMED)
