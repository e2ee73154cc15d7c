"""Many traces, each read and reduced in a process of its own.

A trace's columns never leave the process that read it: what comes back is the small result. At
most `jobs` traces are in memory at once, and a file that cannot be read takes nothing else along.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from apportion.core.errors import ProfileTraceError
from apportion.profiles.device_trace import DeviceTrace
from apportion.profiles.trace_file import TraceFile

Result = TypeVar("Result")
Reduce = Callable[[DeviceTrace], Result]
Progress = Callable[[int, int, str], None]
"""How many of how many traces are done, and the last one's name."""


@dataclass(frozen=True, slots=True)
class Analysed(Generic[Result]):
    """What became of the files, in the order in which they were named."""

    results: tuple[Result, ...]
    refused: tuple[ProfileTraceError, ...]


def analysed(
    files: Sequence[TraceFile],
    reduce: Reduce[Result],
    *,
    jobs: int | None = None,
    progress: Progress = lambda _done, _total, _label: None,
) -> Analysed[Result]:
    """`reduce` of every trace in `files`, by up to `jobs` processes (default: one a CPU).

    `reduce` must be a module's function, or a partial of one: it crosses to other processes.
    """
    workers = min(len(files), jobs or len(os.sched_getaffinity(0)))
    outcomes = _here(files, reduce) if workers <= 1 else _apart(files, reduce, workers)
    found: dict[int, tuple[Result, ...]] = {}
    refused: dict[int, ProfileTraceError] = {}
    for done, (index, outcome) in enumerate(outcomes, start=1):
        if isinstance(outcome, ProfileTraceError):
            refused[index] = outcome
        else:
            found[index] = outcome
        progress(done, len(files), files[index].label)
    return Analysed(
        tuple(result for index in sorted(found) for result in found[index]),
        tuple(refused[index] for index in sorted(refused)),
    )


_Outcomes = Iterator[tuple[int, "tuple[Result, ...] | ProfileTraceError"]]


def _here(files: Sequence[TraceFile], reduce: Reduce[Result]) -> _Outcomes[Result]:
    for index, file in enumerate(files):
        yield index, _outcome(file, reduce)


def _apart(files: Sequence[TraceFile], reduce: Reduce[Result], workers: int) -> _Outcomes[Result]:
    # spawned, not forked: the caller may have threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running = {pool.submit(_outcome, file, reduce): index for index, file in enumerate(files)}
        for future in as_completed(running):
            yield running[future], _result_of(future, files[running[future]])


def _result_of(
    future: Future[tuple[Result, ...] | ProfileTraceError], file: TraceFile
) -> tuple[Result, ...] | ProfileTraceError:
    try:
        return future.result()
    except BrokenProcessPool:
        return ProfileTraceError(
            "was not read: a process that read traces was killed, most likely because memory ran "
            "out; read fewer at once: --jobs 1",
            path=file.label,
        )


def _outcome(file: TraceFile, reduce: Reduce[Result]) -> tuple[Result, ...] | ProfileTraceError:
    try:
        return tuple(reduce(trace) for trace in file.read())
    except ProfileTraceError as error:
        # only its words cross to another process
        return ProfileTraceError(str(error))
