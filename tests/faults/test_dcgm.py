"""A sidecar without NVML: its pod's GPU by way of the node's dcgm-exporter, which then fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from tests.collectors.metrics_server import MetricsServer, answer
from tests.faults.node import Agent, Node

from apportion.core.category import Category
from apportion.core.units import NS_PER_SECOND

OURS, NEIGHBOURS = "GPU-11111111-aaaa", "GPU-22222222-bbbb"
POWER_MW = 400_000
INTERVAL_S = 0.4
SETTLED_NS = 2 * NS_PER_SECOND


class Exporter:
    """A node's dcgm-exporter with two busy GPUs; it takes new values every `INTERVAL_S`."""

    def __init__(self, server: MetricsServer) -> None:
        self.server = server
        self.busy = 1.0
        self.frozen: str | None = None
        self._start_s = time.monotonic()
        server.manners = self.serve

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Its text now, or where it is frozen the last one, for ever."""
        answer(handler, (self.frozen or self.text()).encode())

    def text(self) -> str:
        """Both GPUs' energy since the start, in whole intervals."""
        intervals = int((time.monotonic() - self._start_s) / INTERVAL_S)
        energy_mj = 9_000_000_000 + int(POWER_MW * intervals * INTERVAL_S)
        rows: list[str] = []
        for index, uuid in enumerate((NEIGHBOURS, OURS)):
            labels = (
                f'{{gpu="{index}",UUID="{uuid}",modelName="NVIDIA H100 80GB HBM3",'
                f'Hostname="node-7",DCGM_FI_DRIVER_VERSION="580.95.05"}}'
            )
            rows += [
                f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{labels} {energy_mj}",
                f"DCGM_FI_DEV_POWER_USAGE{labels} {POWER_MW / 1_000:.6f}",
                f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{labels} {self.busy:.6f}",
            ]
        return "\n".join([*rows, ""])


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    """The node's exporter, on loopback."""
    with MetricsServer().running() as server:
        yield Exporter(server)


def freeze(exporter: Exporter) -> None:
    """It answers, but its host engine is gone: the same values for ever."""
    exporter.frozen = exporter.text()


def fail(exporter: Exporter) -> None:
    """It answers 500, as it does when any of its own collectors fails."""
    exporter.server.manners = lambda handler: answer(handler, b"", status=500)


def recover(exporter: Exporter) -> None:
    """It is itself again."""
    exporter.frozen, exporter.server.manners = None, exporter.serve


def spent_ns(agent: Agent, category: Category) -> int:
    """Settled device time of a category."""
    return agent.book.device_ns().get(category, 0)


def until_cut_and_back(
    agent: Agent, exporter: Exporter, cut: Callable[[Exporter], None], reason: str
) -> None:
    """Without telemetry time is unattributed, never idle, and it says why; then it is back."""
    lost_ns = spent_ns(agent, Category.UNATTRIBUTED)
    cut(exporter)
    agent.eventually(
        lambda: spent_ns(agent, Category.UNATTRIBUTED) > lost_ns, "time is unattributed"
    )
    idle_ns = spent_ns(agent, Category.UNALLOCATED)
    agent.eventually(
        lambda: spent_ns(agent, Category.UNATTRIBUTED) > lost_ns + NS_PER_SECOND,
        "and goes on to be",
    )
    assert spent_ns(agent, Category.UNALLOCATED) == idle_ns
    agent.eventually(lambda: reason in agent.door.says(), "the reason is told")
    assert agent.door.value("apportion_collector_success", collector="dcgm") == 0
    recover(exporter)
    agent.eventually(
        lambda: spent_ns(agent, Category.UNALLOCATED) > idle_ns + NS_PER_SECOND,
        "idle time is known again",
    )


@pytest.mark.slow
@pytest.mark.parametrize("node", [1], indirect=True)
def test_a_sidecar_by_way_of_the_nodes_exporter(node: Node, exporter: Exporter) -> None:
    """Only what its ring names is metered, to the joule; without telemetry nothing is idle."""
    agent = node.agent(
        devices="dcgm",
        mode="pod",
        dcgm_urls=[exporter.server.url],
        dcgm_interval=f"{INTERVAL_S}s",
        telemetry_gap="1500ms",
    ).until_ready()
    agent.eventually(lambda: "names a device yet" in agent.door.says(), "no ring, no device")
    assert agent.door.value("apportion_device_info") is None
    trainer = node.workload("training", "pod-train", node.root / "log", OURS, "1")
    agent.eventually(
        lambda: spent_ns(agent, Category.DIRECT) > SETTLED_NS, "seconds of steps are settled"
    )
    assert agent.door.value("apportion_device_info", device=OURS, source="dcgm") == 1
    assert agent.door.value("apportion_device_info", device=NEIGHBOURS) is None
    assert agent.door.value("apportion_scrape_success", collector="dcgm") == 1
    trainer.kill()
    exporter.busy = 0.0
    agent.eventually(
        lambda: spent_ns(agent, Category.UNALLOCATED) > NS_PER_SECOND, "it is seen to be quiet"
    )
    for cut, reason in ((fail, "answered 500"), (freeze, "shows the same values")):
        until_cut_and_back(agent, exporter, cut, reason)
    assert agent.stop() == 0, agent.log

    assert node.audit(agent.book) == []
    assert agent.book.rows("select device, source from device") == [(OURS, "dcgm")]
    assert {sources for (sources,) in agent.book.rows("select energy_source from settlement")} == {
        "energy_counter"
    }
    ((energy_mj, settled_ns),) = agent.book.rows(
        "select sum(energy_mj), sum(end_ns - start_ns) from settlement"
    )
    assert energy_mj == pytest.approx(POWER_MW * settled_ns / NS_PER_SECOND, rel=0.1)
    assert "Traceback" not in agent.log
