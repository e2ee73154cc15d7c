"""Dumps of PyTorch's Flight Recorder, by a torch that misbehaves; a real group: test_torchrun."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from apportion.client import counts
from apportion.client.counting import forget_counts
from apportion.client.flight_recorder import (
    INTERVAL_NS,
    LONGEST_NS,
    NEVER,
    FlightRecorder,
)


class Group:
    """A torch.distributed with a group, whose dump costs and fails as the test says."""

    def __init__(self) -> None:
        self.joined = True
        self.dumps = 0
        self.error: Exception | None = None

    def dump(self, **asked: bool) -> bytes:
        assert asked == {"includeCollectives": True, "onlyActive": False}
        self.dumps += 1
        if self.error is not None:
            raise self.error
        return b"{}"


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """Where a program that imported torch has it."""
    forget_counts()
    group = Group()
    distributed, native = ModuleType("torch.distributed"), ModuleType("native")
    distributed.__dict__["is_available"] = lambda: True
    distributed.__dict__["is_initialized"] = lambda: group.joined
    native.__dict__["_dump_nccl_trace_json"] = group.dump
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)
    monkeypatch.setitem(sys.modules, "torch._C._distributed_c10d", native)
    return group


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a dump costs: the clock moves only while one is taken."""
    clock = SimpleNamespace(now_ns=0)
    monkeypatch.setattr("apportion.client.flight_recorder.monotonic_ns", lambda: clock.now_ns)
    return clock


def test_dumps_come_every_half_minute(group: Group, clock: SimpleNamespace, tmp_path: Path) -> None:
    """Not at each span; the file is replaced whole."""
    recorder, ring = FlightRecorder(), str(tmp_path / "a.ring")
    for clock.now_ns in range(1, 3 * INTERVAL_NS, INTERVAL_NS // 10):
        recorder.look(ring, clock.now_ns)
    assert group.dumps == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.nccl"]


def test_outside_a_group_there_is_nothing(group: Group, tmp_path: Path) -> None:
    """A single process has no collectives: its spans keep the short way."""
    group.joined = False
    recorder = FlightRecorder()
    recorder.look(str(tmp_path / "a.ring"), 1)
    assert group.dumps == 0
    group.joined = True
    recorder.look(str(tmp_path / "a.ring"), INTERVAL_NS)
    assert recorder.due_ns == 2 * INTERVAL_NS


def test_a_dear_dump_becomes_rare_and_then_ends(
    group: Group, clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a thousandth of the time is too much, and the program can read why it ended."""
    recorder = FlightRecorder()

    def dear(**_asked: bool) -> bytes:
        clock.now_ns += 2 * LONGEST_NS // 1_000
        group.dumps += 1
        return b"{}"

    monkeypatch.setitem(
        sys.modules["torch._C._distributed_c10d"].__dict__, "_dump_nccl_trace_json", dear
    )
    for _ in range(10_000):
        clock.now_ns += INTERVAL_NS // 10
        recorder.look(str(tmp_path / "a.ring"), clock.now_ns)
    assert recorder.due_ns == NEVER
    assert 2 <= group.dumps <= 6
    assert counts() == {"dump_too_dear": 1}


def test_a_failing_dump_harms_nobody(group: Group, tmp_path: Path) -> None:
    """Whatever the framework or the disk does: the span goes on, and nobody tries again."""
    group.error = RuntimeError("no buffer")
    recorder = FlightRecorder()
    for now_ns in (1, 2 * INTERVAL_NS, 4 * INTERVAL_NS):
        recorder.look(str(tmp_path / "a.ring"), now_ns)
    assert (group.dumps, counts()) == (1, {"dump_failed": 1})
    forget_counts()
    group.error = None
    recorder = FlightRecorder()
    for now_ns in (1, 2 * INTERVAL_NS, 4 * INTERVAL_NS):
        recorder.look(str(tmp_path / "gone" / "a.ring"), now_ns)
    assert counts() == {"dump_failed": 1}


def test_a_forked_child_begins_anew(group: Group, tmp_path: Path) -> None:
    """The groups were its parent's."""
    recorder = FlightRecorder()
    recorder.look(str(tmp_path / "a.ring"), 1)
    assert recorder.due_ns > 0
    recorder.forget()
    assert recorder.due_ns == 0
    recorder.look(str(tmp_path / "a.ring"), 2 * INTERVAL_NS)
    assert group.dumps == 0
