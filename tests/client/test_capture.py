"""A trace that somebody asked for. Of the real PyTorch: tests/faults/test_capture.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apportion.client import counts
from apportion.client.capture import INTERVAL_NS, Capture
from apportion.client.counting import forget_counts
from apportion.client.flight_recorder import NEVER
from apportion.client.layout import AGENT_FILE, TRACE_SUFFIX

RING = "ab" * 16
WISH = {"id": "0123", "ring": RING, "steps": 2}


class Torch:
    """As much of PyTorch as a trace needs; `said` is what it was asked for."""

    def __init__(self, *, fails: bool = False) -> None:
        self.said: list[str] = []
        self._fails = fails
        self.profiler = SimpleNamespace(profile=self.profile, record_function=self.record)

    def profile(self) -> Any:
        return SimpleNamespace(
            start=lambda: self.said.append("start"),
            stop=lambda: self.said.append("stop"),
            export_chrome_trace=self.export,
        )

    @contextmanager
    def record(self, name: str) -> Generator[None]:
        self.said.append(f"+{name}")
        yield
        self.said.append(f"-{name}")

    def export(self, path: str) -> None:
        Path(path).write_text("trace")
        if self._fails:
            raise OSError("the disk is full")


@pytest.fixture(autouse=True)
def _no_counts() -> None:
    forget_counts()


def ask(folder: Path, capture: object = WISH) -> str:
    """Leave a wish in the agent's file; the path of the ring that it names."""
    text = json.dumps({"requests": {"capture": capture}})
    (folder / AGENT_FILE).write_text(text)
    return str(folder / f"{RING}.ring")


def test_steps_are_traced_from_one_boundary_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many whole steps by their own numbers, once a wish, and a file beside the ring."""
    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    ring, capture = ask(tmp_path), Capture()

    for number in range(7, 12):
        capture.at_step(ring, number)
        capture.due_ns = 0

    assert torch.said == ["start", "+step 7", "-step 7", "+step 8", "-step 8", "stop"]
    trace = tmp_path / f"{RING}.0123{TRACE_SUFFIX}"
    assert trace.read_text() == "trace"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([AGENT_FILE, trace.name])
    assert counts() == {}


@pytest.mark.parametrize(
    "capture",
    [
        {**WISH, "ring": "cd" * 16},
        {**WISH, "steps": 0},
        {**WISH, "steps": 101},
        {**WISH, "steps": "2"},
        {**WISH, "id": "../../x"},
        {"id": "0123"},
        None,
        [],
    ],
)
def test_what_is_no_wish_for_this_process_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture: object
) -> None:
    """Another process's wish, nonsense, and a name that would lead elsewhere."""
    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)

    Capture().at_step(ask(tmp_path, capture), 1)

    assert torch.said == []
    assert counts() == {}


def test_it_is_not_looked_for_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look is a system call: one in two seconds, and none without PyTorch."""
    ring, capture = str(tmp_path / f"{RING}.ring"), Capture()
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    capture.at_step(ring, 1)
    assert capture.due_ns == NEVER

    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    capture.at_step(ring, 2)
    due_ns = capture.due_ns
    ask(tmp_path)
    capture.due_ns += 10 * INTERVAL_NS  # whatever the machine's haste
    capture.at_step(ring, 3)

    assert due_ns > 0
    assert torch.said == []


def test_a_profiler_that_fails_costs_the_trainer_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is counted; no part of a file stays, and the next wish is served."""
    monkeypatch.setitem(sys.modules, "torch", Torch(fails=True))
    ring, capture = ask(tmp_path, {**WISH, "steps": 1}), Capture()
    capture.at_step(ring, 1)
    capture.at_step(ring, 2)

    assert counts() == {"capture_failed": 1}
    assert [path.name for path in tmp_path.iterdir()] == [AGENT_FILE]

    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    ask(tmp_path, {**WISH, "id": "4567"})
    capture.due_ns = 0
    capture.at_step(ring, 3)
    assert torch.said == ["start", "+step 3"]
