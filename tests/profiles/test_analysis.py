"""Many traces at once: the same answers as one by one, in order, and no fault spreads."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from tests.profiles.written import document, kernel, save

from apportion.profiles.analysis import analysed
from apportion.profiles.device_trace import DeviceTrace
from apportion.profiles.trace_file import TraceFile


@pytest.fixture
def files(tmp_path: Path) -> list[TraceFile]:
    """Four traces whose ranks tell them apart."""
    return [
        TraceFile(save(tmp_path / f"{rank}.json", document([kernel("a", 0, 5)], rank=rank)))
        for rank in range(4)
    ]


def rank_of(trace: DeviceTrace) -> int | None:
    """What the tests reduce a trace to."""
    return trace.rank


def killed_at_two(trace: DeviceTrace) -> int | None:
    """As if the kernel had killed the process for its memory."""
    if trace.rank == 2:
        os._exit(9)
    return trace.rank


@pytest.mark.parametrize("jobs", [1, 2])
def test_order_is_that_of_the_files(files: list[TraceFile], jobs: int) -> None:
    """However many processes read, results and refusals come in the order of the files."""
    files[1].path.write_text("")
    seen: list[tuple[int, int]] = []

    found = analysed(
        files, rank_of, jobs=jobs, progress=lambda done, total, _label: seen.append((done, total))
    )

    assert found.results == (0, 2, 3)
    expected = [f"{files[1].path}: is empty; record the trace again"]
    assert [str(error) for error in found.refused] == expected
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_killed_reader_is_said(files: list[TraceFile]) -> None:
    """A process that was killed makes refusals with their remedy, not a traceback."""
    found = analysed(files, killed_at_two, jobs=2)

    assert 2 not in found.results
    assert any("2.json: was not read" in str(error) for error in found.refused)
    assert all("--jobs 1" in str(error) for error in found.refused)
    assert len(found.results) + len(found.refused) == 4


def test_progress_is_shown_on_a_terminal(files: list[TraceFile]) -> None:
    """A person sees how many are read; a file or a pipe gets none of it (tests/agent)."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "apportion.client.dispatch", "trace", "breakdown"]
    try:
        paths = [str(file.path) for file in files]
        subprocess.run(
            [*command, *paths, "--jobs", "1"],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            check=True,
            timeout=60,
        )
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)

    assert "4 of 4 traces read (" in shown
