"""A trace on demand of a real PyTorch loop that nobody edited, in a pod's own volume."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.faults.node import PROGRAMS, Node

from apportion.agent.ingest.pod_directories import VOLUME
from apportion.client.layout import TRACE_SUFFIX
from apportion.profiles.rank_stacks import STEP, RankStacks
from apportion.profiles.trace_file import TraceFile


@pytest.mark.needs_module("torch")
def test_steps_of_a_pod_are_traced_on_demand(node: Node) -> None:
    """`profile gpu` asks, the loop under `apportion run` obeys between two steps, and trains on."""
    pods, end = node.root / "pods", node.root / "end"
    volume = pods / "3f0c-pod" / VOLUME
    volume.mkdir(parents=True)
    agent = node.agent(pods_dir=str(pods)).until_ready()
    apportion = [sys.executable, "-m", "apportion.client.dispatch"]
    pod = node.started(
        [*apportion, "run", "--", sys.executable, str(PROGRAMS / "loop.py"), str(end)],
        APPORTION_RING_DIR=str(volume),
        CUDA_VISIBLE_DEVICES="0",
        PYTHONPATH=":".join(filter(None, sys.path)),
    )
    agent.eventually(lambda: agent.book.count("span") > 0, "steps are in the ledger")
    config = node.root / "agent.yaml"
    page = node.root / "steps.html"
    how = ["--workload", "loop", "--steps", "2", "--patience", "1m", "--out", page]
    done = node.ask("profile", "gpu", "--config", config, *how)
    assert done.returncode == 0, done.stderr
    before = agent.book.count("span")
    agent.eventually(lambda: agent.book.count("span") > before, "it trains on")
    end.touch()
    assert pod.end()[0] == 0  # the profiler itself says that it was there
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []

    path = Path(done.stdout.strip())
    (trace,) = TraceFile(path).read()
    stacks = RankStacks.of(trace).stacks
    codes: list[int] = stacks.labels[STEP].tolist()
    first, second = sorted({int(stacks.names[code]) for code in codes if code >= 0})
    assert second == first + 1
    assert "aten::linear" in stacks.names
    assert "USD" in page.read_text()
    assert list(volume.glob(f"*{TRACE_SUFFIX}")) == []
