"""A trainer that nobody edited for `apportion run`, but for what a loop may say beside its steps.

pretrain.py FOLDER LAST CRASH_AT SAVE_AT

It trains to step LAST with two ranks of gloo. In its first execution rank 1 is killed in step
CRASH_AT; the next one goes on from the checkpoint of step SAVE_AT.
"""

# pyright: reportUnknownMemberType=false
# PyTorch's own annotations leave much unknown.

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from torch import distributed

from apportion import client
from apportion.client import flight_recorder
from apportion.client.flight_recorder import DUMP_SUFFIX
from apportion.client.optimizer_steps import steps_of

FOLDER = Path(sys.argv[1])
LAST, CRASH_AT, SAVE_AT = map(int, sys.argv[2:])
RANK, RESTARTS = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
CHECKPOINT = FOLDER / "checkpoint.pt"

torch.manual_seed(7)
torch.set_num_threads(1)
# Not by torchrun's store: a restart may find the address of a dead rank in it.
distributed.init_process_group(
    "gloo",
    init_method=f"file://{FOLDER}/meeting-{RESTARTS}",
    rank=RANK,
    world_size=int(os.environ["WORLD_SIZE"]),
)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(10, 1))
optimizer = torch.optim.AdamW(model.parameters())
scaler = torch.amp.GradScaler("cpu", growth_interval=1)
if RESTARTS:
    state = torch.load(CHECKPOINT, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    client.resumed(SAVE_AT)
else:  # in this one each step dumps what was moved
    flight_recorder.INTERVAL_NS, flight_recorder.MOST_PART = 1, 0  # type: ignore[misc]


def step(batch: torch.Tensor) -> None:
    """Two micro-batches. The first step of all is only known when its optimizer is called."""
    span = client.current_span()
    for _ in range(2):
        with span.phase("forward"):
            loss = model(batch).sum()
        with span.phase("backward"):
            scaler.scale(loss).backward()
    span.add(tokens=20, samples=2, micro_batches=2)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


for number in range(SAVE_AT + 1 if RESTARTS else 1, LAST + 1):
    if number == CRASH_AT and not RESTARTS:
        for dump in Path(os.environ["APPORTION_RING_DIR"]).glob(f"*{DUMP_SUFFIX}"):
            shutil.copy(dump, FOLDER)
        distributed.barrier()
        if RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    step(torch.ones(1, 10))
    if number == SAVE_AT:
        with client.checkpoint(number):
            if RANK == 0:
                both = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(both, CHECKPOINT)
            distributed.barrier()
    elif number == CRASH_AT:
        with client.evaluation():
            model(torch.ones(1, 10))
step(torch.full((1, 10), float("inf")))  # which the scaler leaves out: no step
distributed.barrier()
assert steps_of(optimizer) == LAST
assert client.counts() == {}, client.counts()
