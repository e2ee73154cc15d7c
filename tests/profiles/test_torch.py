"""The installed PyTorch's own trace, freshly recorded: the schema of today is read."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from tests.examples.forks import Forks

from apportion.profiles.rank_breakdown import RankBreakdown
from apportion.profiles.rank_work import RankWork
from apportion.profiles.trace_file import TraceFile

RECORD = """
import sys
import torch
from torch.profiler import ProfilerActivity, profile, schedule

batches = torch.utils.data.DataLoader(torch.ones(5 * 8, 16), batch_size=8)
layer = torch.nn.Linear(16, 4)
with profile(
    activities=[ProfilerActivity.CPU],
    schedule=schedule(wait=1, warmup=1, active=3, repeat=1),
    record_shapes=True,
    on_trace_ready=lambda done: done.export_chrome_trace(sys.argv[1]),
) as profiler:
    for batch in batches:
        layer(batch).sum().backward()
        profiler.step()
"""
FORWARD_AND_WEIGHT_GRADIENT = 2 * (2 * 8 * 16 * 4)


@pytest.mark.needs_module("torch")
def test_traces_made_just_now(tmp_path: Path, forks: Forks) -> None:
    """Steps, operators, data wait and operations."""
    program = tmp_path / "record.py"
    program.write_text(RECORD)
    with closing(forks.start(program, [str(tmp_path / "rank0.json.gz")], os.environ)) as recorder:
        assert recorder.wait(100) == 0, recorder.stderr.read()

    (trace,) = TraceFile(tmp_path / "rank0.json.gz").read()
    rank = RankBreakdown.of(trace)

    assert [one.number for one in rank.steps] == [2, 3, 4]
    assert "aten::linear" in {one.name for one in rank.kernels}
    assert all(one.device.busy_ns > 0 for one in rank.steps)
    assert (rank.whole.data_wait_ns or 0) > 0
    assert RankWork.of(trace).flop == 3 * FORWARD_AND_WEIGHT_GRADIENT
