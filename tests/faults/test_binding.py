"""Which devices a process used: from its environment, and from NVML's list of processes."""

from __future__ import annotations

import pytest
from tests.faults.node import Agent, Node, Workload

from apportion.simulator import ProcessLoad

GPUS = 8
RANKS = 4
MEMORY_BYTES = 1 << 30


def start(node: Node, visible: str, server: str) -> tuple[list[Workload], Workload]:
    """Four ranks as torchrun starts them, and a server on two devices."""
    ranks = [
        node.workload(
            "rank",
            "rank",
            "train",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(RANKS),
            CUDA_VISIBLE_DEVICES=visible,
        )
        for rank in range(RANKS)
    ]
    return ranks, node.workload("rank", "server", "serve", CUDA_VISIBLE_DEVICES=server)


def devices(node: Node, *indexes: int) -> tuple[str, ...]:
    """The UUIDs of simulated GPUs."""
    return tuple(node.simulator.uuids[index] for index in indexes)


def until_bound(agent: Agent, source: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """All five bindings, once each comes from `source`."""

    def look() -> dict[str, tuple[tuple[str, ...], str]]:
        found = agent.book.bindings()
        good = len(found) == RANKS + 1 and {by for _, by in found.values()} == {source}
        return found if good else {}

    return agent.eventually(look, f"five bindings from {source}")


def paid(agent: Agent) -> dict[str, set[tuple[str, ...]]]:
    """By workload, the device groups that its direct time was charged to."""
    rows = agent.book.rows(
        "select distinct workload, group_key from charge join entity using (agent_id, entity_key) "
        "where ring_key is not null"
    )
    groups = agent.book.groups()  # after them: the agent goes on
    found: dict[str, set[tuple[str, ...]]] = {}
    for workload, group in rows:
        found.setdefault(workload, set()).add(groups[group])
    return found


@pytest.mark.parametrize("node", [GPUS], indirect=True)
def test_by_environment_hints(node: Node) -> None:
    """No process list: a permuted CUDA_VISIBLE_DEVICES and local ranks say who has what."""
    agent = node.agent().until_ready()
    uuid = node.simulator.uuids[2]
    ranks, server = start(node, "7,5,3,1", f"{uuid},0")

    bound = until_bound(agent, "environment")
    agent.eventually(lambda: len(paid(agent).get("train", ())) == RANKS, "all ranks are charged")
    agent.eventually(lambda: "serve" in paid(agent), "the server is charged")
    for workload in (*ranks, server):
        assert workload.end() == (0, "")
    assert agent.stop() == 0, agent.log

    assert bound == {
        "train/0": (devices(node, 7), "environment"),
        "train/1": (devices(node, 5), "environment"),
        "train/2": (devices(node, 3), "environment"),
        "train/3": (devices(node, 1), "environment"),
        "serve": (devices(node, 2, 0), "environment"),
    }
    assert paid(agent) == {
        "train": {devices(node, index) for index in (7, 5, 3, 1)},
        "serve": {devices(node, 2, 0)},
    }
    assert agent.book.faults() == []


@pytest.mark.parametrize("node", [GPUS], indirect=True)
def test_by_nvml_processes(node: Node) -> None:
    """What the driver lists wins over what the environment hints at."""
    ranks, server = start(node, "7,5,3,1", "2,0")
    for index, workload in enumerate(ranks):
        node.simulator.set_processes(index, [ProcessLoad(workload.pid, MEMORY_BYTES, 0.5)])
    for index in (4, 6):
        node.simulator.set_processes(index, [ProcessLoad(server.pid, MEMORY_BYTES, 0.5)])
    agent = node.agent().until_ready()

    bound = until_bound(agent, "nvml_process")
    for workload in (*ranks, server):
        assert workload.end() == (0, "")
    agent.eventually(lambda: len(paid(agent).get("train", ())) == RANKS, "all ranks are charged")
    agent.eventually(lambda: "serve" in paid(agent), "the server is charged")
    assert agent.stop() == 0, agent.log

    assert bound == {
        **{f"train/{rank}": (devices(node, rank), "nvml_process") for rank in range(RANKS)},
        "serve": (devices(node, 4, 6), "nvml_process"),
    }
    assert paid(agent) == {
        "train": {devices(node, index) for index in range(RANKS)},
        "serve": {devices(node, 4, 6)},
    }
    assert agent.book.faults() == []
