"""A real Hugging Face Trainer and a real Lightning, two ranks each, as the ledger has them."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from tests.conftest import REPOSITORY, lack
from tests.faults.node import PROGRAMS, Agent, Node

from apportion.core.category import Category, Phase, SpanKind, SpanStatus

TRAINERS = REPOSITORY / "build" / "trainers"
NAMES, RANKS, SAVED, LAST = ("huggingface", "lightning"), (0, 1), 3, 5
FIRST_LAST = 4
FLOPS_PER_TOKEN = 6 * 4 * 16
"""The model's layer; its table is looked up."""
STEP, EVALUATION, CHECKPOINT = map(int, (SpanKind.STEP, SpanKind.EVALUATION, SpanKind.CHECKPOINT))


class Root(NamedTuple):
    """A step, an evaluation or a checkpoint in the ledger."""

    kind: int
    step: int
    start_ns: int
    end_ns: int
    counters: tuple[int | None, int | None, int | None]
    """Tokens, samples, micro-batches."""


def roots_of(agent: Agent) -> dict[tuple[str, str, int], list[Root]]:
    """By run, attempt and rank, in order; a step that was none took no time."""
    found: defaultdict[tuple[str, str, int], list[Root]] = defaultdict(list)
    said = ", ".join(f"json_extract(identity, '$.{key}')" for key in ("run", "attempt", "rank"))
    for run, attempt, rank, kind, step, start_ns, end_ns, *counters in agent.book.rows(
        f"select {said}, kind, step, start_ns, end_ns, tokens, samples, micro_batches "
        "from span join ring using (agent_id, ring_key) "
        "where parent = 0 and status = ? and end_ns > start_ns order by start_ns",
        int(SpanStatus.OK),
    ):
        root = Root(kind, step, start_ns, end_ns, (counters[0], counters[1], counters[2]))
        found[run, attempt, rank].append(root)
    return found


@pytest.mark.needs_module("torch")
def test_what_trainers_do_is_in_the_ledger(node: Node) -> None:
    """By their callbacks alone: steps, tokens, what is beside steps, ranks, attempts and FLOPs."""
    if not (TRAINERS / "transformers").is_dir():
        lack("transformers and lightning are not in build/trainers: run make build/trainers/.stamp")
    agent = node.agent().until_ready()
    job = node.started(
        [sys.executable, str(PROGRAMS / "trainers.py"), str(node.root)],
        CUDA_VISIBLE_DEVICES="0,1",
        GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
        PYTHONPATH=":".join([*filter(None, sys.path), str(TRAINERS)]),
    )
    status, said = job.end(patience_s=200)
    assert status == 0, said
    agent.eventually(
        lambda: agent.door.value("apportion_rings_attached") == 0, "all rings are read to their end"
    )
    agent.eventually(agent.book.all_charged, "every span is charged to its end")
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []
    check_roots(roots_of(agent))
    check_flops(agent)
    check_charges(agent)
    for name in NAMES:
        check_report(node, agent, name)


def check_roots(roots: dict[tuple[str, str, int], list[Root]]) -> None:
    """Numbers and counters are the trainer's and this rank's own, and nothing overlaps."""
    assert set(roots) == {
        (f"{name}-7", attempt, rank) for name in NAMES for attempt in ("0", "1") for rank in RANKS
    }
    for (_, attempt, _), mine in roots.items():
        steps = [each for each in mine if each.kind == STEP]
        first, last = (SAVED + 1, LAST) if attempt == "1" else (1, FIRST_LAST)
        assert [each.step for each in steps] == list(range(first, last + 1))
        # Three micro-batches of two samples of eight tokens make a step of two, then one of one.
        counters = [(32, 4, 2) if each.step % 2 else (16, 2, 1) for each in steps]
        assert [each.counters for each in steps] == counters
        assert EVALUATION in {each.kind for each in mine}
        saved = {each.step for each in mine if each.kind == CHECKPOINT}
        assert attempt == "1" or SAVED in saved
        for earlier, later in pairwise(mine):
            assert earlier.end_ns <= later.start_ns


def check_flops(agent: Agent) -> None:
    """The callbacks say how large the model is: with the steps' tokens that is what MFU needs."""
    said = agent.book.rows("select json_extract(identity, '$.flops_per_token') from ring")
    assert said == [(FLOPS_PER_TOKEN,)] * len(NAMES) * len(RANKS) * 2


def check_charges(agent: Agent) -> None:
    """Steps' time by their phases; what is beside steps has its own categories.

    An evaluation within a step, as Lightning does them, is a phase of it.
    """
    by_category = agent.book.device_ns()
    assert all(
        by_category[each] > 0
        for each in (Category.DIRECT, Category.EVALUATION, Category.CHECKPOINT)
    )
    phases = agent.book.rows(
        "select distinct workload, phase from charge join entity using (agent_id, entity_key) "
        "where category = ? and phase is not null and device_ns > 0",
        int(Category.DIRECT),
    )
    parts = {Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER}
    assert {(name, int(part)) for name in NAMES for part in parts} <= set(phases)
    assert ("lightning", int(Phase.EVALUATION)) in phases


def check_report(node: Node, agent: Agent, name: str) -> None:
    """One run of two attempts and two ranks; the second one did the fourth step again."""
    done = node.ask("report", "--ledger", agent.book.path, "--run", f"{name}-7", "--format", "json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["workload"], run["run"]) == (name, f"{name}-7")
    assert (run["finished_steps"], run["kept_steps"]) == (FIRST_LAST + LAST - SAVED, LAST)
    attempts: list[dict[str, Any]] = run["attempts"]
    assert [(each["ranks"], each["world_size"]) for each in attempts] == [(2, 2)] * 2
    assert (attempts[1]["resumed_step"], attempts[1]["last_step"]) == (SAVED, LAST)
    for package in ("torch", "transformers", "lightning"):
        assert attempts[0]["manifest"][package]
