"""A real torch with two ranks of gloo: steps by its optimizers' hooks, and its Flight Recorder."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from tests.client.decoded import Decoded, read, rings

from apportion.client import layout
from apportion.client.flight_recorder import DUMP_SUFFIX

TRAINER = """
import sys
from apportion import client
from apportion.client import flight_recorder
from apportion.client.optimizer_steps import steps_of

client.torch_steps()
assert "torch" not in sys.modules

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

flight_recorder.INTERVAL_NS = 1
flight_recorder.MOST_PART = 0

def rank(number, folder):
    client.init(workload="pretrain", directory=folder, rank=number, world_size=2)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    model = torch.nn.Linear(10, 1)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parallel.parameters())
    scaler = torch.amp.GradScaler("cpu", growth_interval=1)

    def step(batch):
        for _ in range(2):
            scaler.scale(parallel(batch).sum()).backward()
        client.current_span().add(tokens=20)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    for _ in range(4):
        step(torch.ones(1, 10))
    with client.evaluation():
        parallel(torch.ones(1, 10))
    step(torch.full((1, 10), float("inf")))  # which the scaler leaves out
    step(torch.ones(1, 10))
    assert steps_of(optimizer) == 5
    assert steps_of(torch.optim.SGD(model.parameters(), lr=0.1)) == 0
    distributed.barrier()
    assert client.counts() == {}, client.counts()

if __name__ == "__main__":
    multiprocessing.spawn(rank, args=(sys.argv[1],), nprocs=2)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the trainer left behind."""
    program = tmp_path_factory.mktemp("program") / "trainer.py"
    program.write_text(TRAINER)
    folder = tmp_path_factory.mktemp("rings")
    command = [sys.executable, str(program), str(folder)]
    done = subprocess.run(command, timeout=100, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def steps(ring: Decoded) -> list[dict[str, int]]:
    """Its steps, in order."""
    return [each for each in ring.records if each["kind"] == layout.KINDS["step"]]


@pytest.mark.needs_module("torch")
def test_every_step_of_the_optimizer_is_one(folder: Path) -> None:
    """As many as it made: not those that the scaler left out, nor what came after the last."""
    found = [read(path) for path in rings(folder)]
    assert {0, 1} == {ring.identity["rank"] for ring in found}
    for ring in found:
        mine = steps(ring)
        assert [1, 2, 3, 4, 5] == [each["step"] for each in mine]
        assert {layout.STATUSES["ok"]} == {each["status"] for each in mine}
        assert [] == ring.open_slots
        assert ring.header["closed_ns"]


@pytest.mark.needs_module("torch")
def test_steps_lie_end_to_end(folder: Path) -> None:
    """Nothing between two of them but an evaluation that says that it is one."""
    for ring in (read(path) for path in rings(folder)):
        one, two, three, four, five = steps(ring)
        for earlier, later in pairwise((one, two, three, four)):
            assert earlier["end_ns"] <= later["start_ns"]
            among = [each for each in ring.records if each["start_ns"] < later["start_ns"]]
            assert all(each["start_ns"] <= earlier["start_ns"] for each in among)
        (evaluation,) = (
            each
            for each in ring.records
            if each["kind"] == layout.KINDS["evaluation"] and each["end_ns"] > each["start_ns"]
        )
        assert four["end_ns"] <= evaluation["start_ns"] <= evaluation["end_ns"] <= five["start_ns"]
        assert [layout.ABSENT, 20, 20, 20, 40] == [each["tokens"] for each in steps(ring)]


@pytest.mark.needs_module("torch")
def test_a_real_group_leaves_its_dumps(folder: Path) -> None:
    """Two ranks of gloo: one file each beside the ring, with what they have moved."""
    dumps = sorted(folder.glob(f"*{DUMP_SUFFIX}"))
    assert [path.stem for path in dumps] == [path.stem for path in rings(folder)]
    assert len(dumps) == 2
    for path in dumps:
        head, _, body = path.read_bytes().partition(b"\n")
        assert json.loads(head)["apportion"]["cost_ns"] > 0
        reduced = [
            each for each in json.loads(body)["entries"] if "all_reduce" in each["profiling_name"]
        ]
        assert [[11]] in [each["input_sizes"] for each in reduced]
        assert "frames" not in reduced[0]
