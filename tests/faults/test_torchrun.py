"""A real torchrun of two ranks under `apportion run`: killed, resumed, and its report."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from tests.faults.node import PROGRAMS, Agent, Node

from apportion.core.category import Phase, SpanKind, SpanStatus

RUN, LAST, CRASH_AT, SAVED = "pretrain-2", 8, 7, 4
RANKS = (0, 1)
SEED = "7"
"""Of pretrain.py."""
OK = int(SpanStatus.OK)


class Step(NamedTuple):
    """A step in the ledger."""

    number: int
    status: int
    start_ns: int
    end_ns: int
    tokens: int | None
    samples: int | None
    micro_batches: int | None


def steps_of(agent: Agent) -> dict[tuple[str, int], list[Step]]:
    """By attempt and rank, in order."""
    found: defaultdict[tuple[str, int], list[Step]] = defaultdict(list)
    for attempt, rank, *row in agent.book.rows(
        "select json_extract(identity, '$.attempt'), json_extract(identity, '$.rank'), "
        "step, status, start_ns, end_ns, tokens, samples, micro_batches "
        "from span join ring using (agent_id, ring_key) "
        "where parent = 0 and kind = ? order by start_ns",
        int(SpanKind.STEP),
    ):
        found[attempt, rank].append(Step(*row))
    return found


@pytest.mark.needs_module("torch")
def test_a_job_that_is_killed_and_resumed(node: Node) -> None:
    """No edit: two attempts of one run, each rank's steps, tokens and phases, and what was lost."""
    agent = node.agent().until_ready()
    program = [str(PROGRAMS / "pretrain.py"), str(node.root), *map(str, (LAST, CRASH_AT, SAVED))]
    torchrun = ["--nproc-per-node=2", "--max-restarts=1", f"--rdzv-id={RUN}"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    job = node.started(
        [
            *(sys.executable, "-m", "apportion.client.dispatch", "run", "--"),
            *(sys.executable, "-m", "torch.distributed.run", *torchrun, *rendezvous, *program),
        ],
        CUDA_VISIBLE_DEVICES="0,1",
        GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
        PYTHONPATH=":".join(filter(None, sys.path)),
    )
    status, said = job.end(patience_s=120)
    assert status == 0, said
    agent.eventually(
        lambda: agent.door.value("apportion_rings_attached") == 0, "all rings are read to their end"
    )
    agent.eventually(agent.book.all_charged, "every span is charged to its end")
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []

    steps = steps_of(agent)
    check_steps(steps)
    check_phases(agent)
    check_dumps(node)
    check_report(node, agent, steps)


def check_steps(steps: dict[tuple[str, int], list[Step]]) -> None:
    """Every step of an optimizer is one, end to end, and none that the scaler left out."""
    assert set(steps) == {(attempt, rank) for attempt in ("0", "1") for rank in RANKS}
    for (attempt, _), mine in steps.items():
        first = SAVED + 1 if attempt == "1" else 1
        last = LAST if attempt == "1" else CRASH_AT - 1
        finished = [step for step in mine if step.status == OK]
        assert [step.number for step in finished] == list(range(first, last + 1))
        assert {step.number for step in mine} - set(range(first, last + 1)) <= {CRASH_AT}
        for earlier, later in pairwise(mine):
            assert earlier.end_ns <= later.start_ns
        known = [(step.tokens, step.samples, step.micro_batches) for step in finished]
        assert known == [(None, None, None), *[(20, 2, 2)] * (len(known) - 1)]
    assert SpanStatus.LOST in {SpanStatus(step.status) for step in steps["0", 1]}


def check_phases(agent: Agent) -> None:
    """What the loop called forward and backward has its part of the cost."""
    rows = agent.book.rows(
        "select phase, sum(device_ns) from charge where phase is not null group by phase"
    )
    costs = {Phase(phase): device_ns for phase, device_ns in rows}
    assert costs[Phase.FORWARD] > 0
    assert costs[Phase.BACKWARD] > 0


def check_dumps(node: Node) -> None:
    """The first attempt's ranks left what they had moved: the gradient of eleven weights."""
    dumps = sorted(node.root.glob("*.nccl"))
    assert len(dumps) == len(RANKS)
    for path in dumps:
        head, _, body = path.read_bytes().partition(b"\n")
        assert json.loads(head)["apportion"]["cost_ns"] > 0
        entries = json.loads(body)["entries"]
        reduced = [each for each in entries if "all_reduce" in each["profiling_name"]]
        assert [[11]] in [each["input_sizes"] for each in reduced]
        assert "frames" not in reduced[0]


def check_report(node: Node, agent: Agent, steps: dict[tuple[str, int], list[Step]]) -> None:
    """One run, two attempts: what was done again is lost, to the nanosecond."""
    done = node.ask("report", "--ledger", agent.book.path, "--run", RUN, "--format", "json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["workload"], run["run"]) == ("pretrain", RUN)
    assert (run["finished_steps"], run["kept_steps"]) == (CRASH_AT - 1 + LAST - SAVED, LAST)
    first, second = run["attempts"]
    assert (first["outcome"], second["outcome"]) == ("interrupted", "finished")
    assert (first["finished_steps"], first["kept_steps"]) == (CRASH_AT - 1, SAVED)
    assert (second["resumed_step"], second["last_step"]) == (SAVED, LAST)
    assert [(each["ranks"], each["world_size"]) for each in (first, second)] == [(2, 2)] * 2
    for attempt in (first, second):
        assert attempt["manifest"]["torch"]
        assert attempt["manifest"]["seed"] == [SEED]
    lines: dict[str, dict[str, Any]] = {each["line"]: each["total"] for each in run["lines"]}
    again = [
        step.end_ns - step.start_ns
        for rank in RANKS
        for step in steps["0", rank]
        if step.status != SpanStatus.LOST and step.number > SAVED
    ]
    assert lines["lost: rolled back"]["device_ns"] == sum(again)
    assert lines["lost: open at death"]["device_ns"] > 0
    text = node.ask("report", "--ledger", agent.book.path, "--run", RUN).stdout
    assert f"{LAST} steps kept of {CRASH_AT - 1 + LAST - SAVED} finished" in text
    assert f"seed {SEED}" in text[text.index("What it ran with") :]
