"""The files that `apportion trace` reads, what they are reduced to, and what is said beside it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from apportion.agent.cli.jobs_option import add_jobs
from apportion.agent.cli.said import say
from apportion.core.errors import ProfileTraceError
from apportion.profiles.analysis import Reduce, analysed
from apportion.profiles.trace_file import TraceFile, trace_files


class Summary(Protocol):
    """What every reduced trace says of itself."""

    @property
    def source(self) -> str:
        """The file."""
        ...

    @property
    def rank(self) -> int | None:
        """The rank; None where the trace does not say."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful."""
        ...

    @property
    def unverified(self) -> str | None:
        """Why nobody can vouch for the reader."""
        ...


Result = TypeVar("Result", bound=Summary)


def add_inputs(parser: argparse.ArgumentParser, least: str = "+") -> None:
    """The files and how many are read at once."""
    parser.add_argument(
        "files",
        nargs=least,
        type=Path,
        metavar="FILE",
        help="torch.profiler's .json, .json.gz or a tar of them, one a rank; or nsys's .sqlite",
    )
    add_jobs(parser)


def reduced(
    options: argparse.Namespace, reduce: Reduce[Result], *, is_quiet: bool = False
) -> tuple[list[Result], bool]:
    """Every trace that can be read, reduced; and whether all could be.

    What is doubtful and what was refused goes to stderr, line by line; progress too, on a terminal.
    is_quiet: they are reduced once more, and then it is said.

    Raises:
        ProfileTraceError: none could be read.
    """
    files, refused = trace_files(options.files)
    files, repeated = _once(files)
    done = analysed(files, reduce, jobs=options.jobs, progress=_progress)
    refused = [*refused, *repeated, *done.refused]
    if not done.results:
        say(str(error) for error in refused[:-1])
        raise refused[-1]
    results = sorted(done.results, key=lambda one: (one.rank is None, one.rank or 0))
    if is_quiet:
        return results, not refused
    say(str(error) for error in refused)
    say(_doubts(results))
    say(_same_ranks(results))
    say(sorted({one.unverified for one in done.results if one.unverified is not None}))
    return results, not refused


def _once(files: Sequence[TraceFile]) -> tuple[list[TraceFile], list[ProfileTraceError]]:
    """Each trace once, although it was named or copied several times."""
    kept: list[TraceFile] = []
    repeated: list[ProfileTraceError] = []
    for file in files:
        held = next((one for one in kept if file.is_copy_of(one)), None)
        if held is None:
            kept.append(file)
        else:
            repeated.append(
                ProfileTraceError(
                    f"is the same trace as {held.label} and counts once; give each rank's file "
                    "one time",
                    path=file.label,
                )
            )
    return kept, repeated


def _doubts(results: Sequence[Summary]) -> Iterator[str]:
    """What is doubtful, once for all traces of which it is said in the same words."""
    sources: dict[str, list[str]] = {}
    for one in results:
        for warning in one.warnings:
            sources.setdefault(warning, []).append(one.source)
    for warning, (first, *others) in sources.items():
        more = f" and {len(others)} more" if others else ""
        yield f"{first}{more}: {warning}"


def _same_ranks(results: Sequence[Summary]) -> Iterator[str]:
    first: dict[int, str] = {}
    for one in results:
        if one.rank is not None and first.setdefault(one.rank, one.source) != one.source:
            yield (
                f"{one.source}: rank {one.rank} was already given as {first[one.rank]}: two times "
                "or two jobs are mixed here; give the ranks of one capture of one job"
            )


def named(rows: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Rows for people: a trace by rank, else by file, below what all have in common."""
    found = [
        {key: round(cell, 3) if isinstance(cell, float) else cell for key, cell in row.items()}
        for row in rows
    ]
    sources = {str(row["source"]) for row in found if row["rank"] is None}
    folders = {Path(source).absolute().parent for source in sources}
    for row in found:
        if row["rank"] is None:
            row["rank"] = os.path.relpath(str(row["source"]), os.path.commonpath(folders))
    return found


def _progress(done: int, total: int, label: str) -> None:
    if total > 1 and sys.stderr.isatty():
        ending = "\n" if done == total else ""
        sys.stderr.write(f"\r\x1b[K{done} of {total} traces read ({label[-60:]}){ending}")
        sys.stderr.flush()
