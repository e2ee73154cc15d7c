"""Turns of the same requests at a vLLM, what they took, and how two ways of it compare."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray
from tests.real_vllm.programs import Program
from tests.real_vllm.traffic import answers

REQUESTS: Final = 48
"""A turn: some seconds."""
TRIMMED: Final = 0.1
RESAMPLES: Final = 2_000


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


class Figure(NamedTuple):
    """A mean and the interval that holds 95 % of its bootstrap, as parts of one."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Sequence[float]) -> Figure:
        """Of values that count alike."""
        values, source = np.array(found), np.random.default_rng(1)
        low, high = np.percentile(
            [_trimmed(source.choice(values, values.size)) for _ in range(RESAMPLES)], [2.5, 97.5]
        )
        return cls(_trimmed(values), float(low), float(high))

    @classmethod
    def ratio(cls, mine: Sequence[float], theirs: Sequence[float]) -> Figure:
        """How much more `mine` are than `theirs`, pair by pair."""
        logs = np.log(np.array(mine) / np.array(theirs))
        return cls(*np.expm1(cls.of(logs.tolist())).tolist())

    @property
    def half(self) -> float:
        """Of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.mean:+.3%} ({self.low:+.3%} to {self.high:+.3%})"


def _trimmed(values: NDArray[np.float64]) -> float:
    cut = int(values.size * TRIMMED)
    return float(np.sort(values)[cut : values.size - cut].mean())


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

    def slower(self) -> Figure:
        """What part of the throughput is missing: how much longer the same requests took."""
        return self._ratio("seconds")

    def dearer(self) -> Figure:
        """How much more CPU time the same requests took."""
        return self._ratio("cpu_seconds")

    def _ratio(self, name: str) -> Figure:
        mine, theirs = (
            [getattr(turn, name) for turn in turns] for turns in (self.with_ours, self.without)
        )
        return Figure.ratio(mine, theirs)
