"""Dumps of PyTorch's Flight Recorder: by a real group of two, and by a torch that misbehaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from apportion.client import counts
from apportion.client.counting import forget_counts
from apportion.client.flight_recorder import (
    DUMP_SUFFIX,
    INTERVAL_NS,
    LONGEST_NS,
    NEVER,
    FlightRecorder,
)

TRAINER = """
import sys
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from apportion import client
from apportion.client import flight_recorder

flight_recorder.INTERVAL_NS = 1
flight_recorder.MOST_PART = 0

def rank(number, folder):
    client.init(workload="pretrain", directory=folder)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    tensor = torch.ones(1_000)
    for step in range(6):
        with client.step(step):
            distributed.all_reduce(tensor)
    distributed.barrier()
    assert client.counts() == {}, client.counts()

if __name__ == "__main__":
    multiprocessing.spawn(rank, args=(sys.argv[1],), nprocs=2)
"""


@pytest.mark.needs_module("torch")
def test_a_real_group_leaves_its_dumps(tmp_path: Path) -> None:
    """Two ranks of gloo: one file each beside the ring, with what they have moved."""
    program = tmp_path / "trainer.py"
    program.write_text(TRAINER)
    rings = tmp_path / "rings"
    rings.mkdir()
    command = [sys.executable, str(program), str(rings)]
    subprocess.run(command, check=True, timeout=100, capture_output=True)
    dumps = sorted(rings.glob(f"*{DUMP_SUFFIX}"))
    assert [path.stem for path in dumps] == sorted(path.stem for path in rings.glob("*.ring"))
    assert len(dumps) == 2
    for path in dumps:
        head, _, body = path.read_bytes().partition(b"\n")
        assert json.loads(head)["apportion"]["cost_ns"] > 0
        entries = json.loads(body)["entries"]
        assert entries[0]["profiling_name"] == "gloo:all_reduce"
        assert entries[0]["input_sizes"] == [[1000]]
        assert "frames" not in entries[0]


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
    assert recorder.on
    assert group.dumps == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.nccl"]


def test_outside_a_group_there_is_nothing(group: Group, tmp_path: Path) -> None:
    """A single process has no collectives: its spans keep the short way."""
    group.joined = False
    recorder = FlightRecorder()
    recorder.look(str(tmp_path / "a.ring"), 1)
    assert not recorder.on
    assert group.dumps == 0
    group.joined = True
    recorder.look(str(tmp_path / "a.ring"), INTERVAL_NS)
    assert recorder.on


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
    assert recorder.on
    recorder.forget()
    assert (recorder.on, recorder.due_ns) == (False, 0)
