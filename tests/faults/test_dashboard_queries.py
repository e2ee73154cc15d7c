"""Every query of every dashboard, against a real Prometheus and an agent on SIMULATED GPUs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from dashboards.boards import BOARDS
from tests.collectors.kubelet import devices, kubelet, pod
from tests.faults.gpus import metered
from tests.faults.node import eventually
from tests.monitoring import Prometheus
from tests.queries import filled, queries

GIVEN = (
    "`budgets` in the configuration",
    "a trainer that declares its model's size",
    "phases in steps or requests",
    "the `kubernetes` collector",
    "requests with cached input tokens",
    "a device that fails",
    "a device that had an XID error",
)
"""What panels need and this test gives them."""
MAY_BE_EMPTY = {
    f"apportion / {board.title} / {panel.title}"
    for board in BOARDS
    for panel in board.panels
    if panel.needs and panel.needs not in GIVEN
}
"""Panels that say what they need beside an agent with GPUs, a price and workloads."""
ANNOTATIONS = ("Restarts", "Lost work", "XID errors", "Prices applied", "Price changes")
TRAINER, SERVER, NOBODYS = range(3)


def given(ids: Sequence[str]) -> bytes:
    """The kubelet's answer: the trainer's GPU is a pod's."""
    of_trainer = [devices("nvidia.com/gpu", uuid) for uuid in ids[TRAINER:1]]
    return pod("ml", "train-0", "main", *of_trainer)


@pytest.mark.needs_program("prometheus", "setpriv")
def test_each_query_returns_data(repository: Path, tmp_path: Path, library: Path) -> None:
    """With a trainer and a server at work no picture is empty that does not say why."""
    wanted = [
        (where, filled(expression))
        for path in sorted((repository / "dashboards/grafana").glob("*.json"))
        for where, expression in queries(json.loads(path.read_text()))
    ]
    assert len(wanted) > 120
    with ExitStack() as ended:
        budgets = [{"name": "all", "amount": "10", "currency": "USD"}]
        ids: list[str] = []
        socket = ended.enter_context(kubelet(lambda: given(ids)))
        more = {"budgets": budgets, "kubelet_socket": str(socket)}
        gpus = ended.enter_context(metered(tmp_path, library, devices=3, **more))
        ids += gpus.ids
        for index in (TRAINER, SERVER):
            gpus.simulator.set_utilization(index, 0.8)
        log = tmp_path / "finished"
        for kind, name, index in (("steps", "train", TRAINER), ("requests", "serve", SERVER)):
            arguments = (kind, name, 10**6, 20, log, index)
            workload = gpus.node.workload(
                "traffic", *arguments, APPORTION_RUN="run-1", APPORTION_PARAMETERS="8000000000"
            )
            ended.callback(workload.kill)
        gpus.simulator.xid(NOBODYS, 79)
        gpus.simulator.fault("lost", NOBODYS)
        watcher = Prometheus(tmp_path / "prometheus", {"apportion": [gpus.agent.door.address]}, {})
        ended.callback(watcher.stop)
        missing = [
            (where, query)
            for where, query in wanted
            if where not in MAY_BE_EMPTY and not where.endswith(ANNOTATIONS)
        ]

        def all_there() -> bool:
            missing[:] = [each for each in missing if not watcher.query(each[1])]
            return not missing

        try:
            eventually(all_there, "each query has data", every_s=1)
        except AssertionError:
            pytest.fail("\n".join(f"{where}: {query}" for where, query in missing))
        for _, query in wanted:
            watcher.query(query)
