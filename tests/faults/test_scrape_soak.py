"""A Prometheus scrapes a node for minutes: GPUs fail, workloads, pods and agents come and go.

    APPORTION_SOAK_SECONDS=300 python -m pytest tests/faults/test_scrape_soak.py

It takes as long as it is told and is no part of the suite. It asks for no speed: on a busy machine
scrapes are late and a start takes long. What must not be is said by `scrapes.unexplained`.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.collectors.kubelet import devices, kubelet, pod
from tests.faults.node import Agent, Node, Workload, eventually
from tests.faults.scrapes import LATE, Scrapes, Window, unexplained
from tests.monitoring import Prometheus

from apportion.core.clock import SystemClock
from apportion.core.units import NS_PER_SECOND

SECONDS = int(os.environ.get("APPORTION_SOAK_SECONDS", "0"))
FAULTS = ("lost", "ecc-storm", "thermal", "hang", "slow", "garbage-processes")
LAST_FAULTY = 3
SCRAPE_S = 1.0
"""Prometheus' interval: a scrape that was under way may be cut off."""
REFUSED = (
    "prometheus_target_scrapes_sample_duplicate_timestamp_total",
    "prometheus_target_scrapes_sample_out_of_order_total",
    "prometheus_target_scrapes_sample_out_of_bounds_total",
)


def now_s() -> float:
    """Unix time, as Prometheus dates its scrapes."""
    return SystemClock().realtime_ns() / NS_PER_SECOND


def twice(agent: Agent) -> list[str]:
    """Series that one answer of /metrics has more than once."""
    seen = Counter(
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(agent.door.text())
        for sample in family.samples
    )
    return [str(series) for series, count in seen.items() if count > 1]


class Pods:
    """What the kubelet says: a pod for each of two GPUs, every now and then another one."""

    def __init__(self, uuids: tuple[str, ...]) -> None:
        self._uuids, self._number = uuids, 0

    def replace(self) -> None:
        """The next pods."""
        self._number += 1

    def answer(self) -> bytes:
        """The kubelet's list."""
        return b"".join(
            pod("ml", f"job-{self._number}-{at}", "main", devices("nvidia.com/gpu", uuid))
            for at, uuid in enumerate(self._uuids[:2])
        )


@pytest.mark.skipif(not SECONDS, reason="a soak: set APPORTION_SOAK_SECONDS to its length")
@pytest.mark.timeout(2 * SECONDS + 240)
@pytest.mark.needs_program("prometheus", "setpriv")
@pytest.mark.parametrize("node", [4], indirect=True)
def test_scrapes_go_on(node: Node, tmp_path: Path) -> None:
    """Only a restart ends a scrape or sets a counter back; no sample is refused or doubled."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    kmsg = tmp_path / "kmsg"
    kmsg.touch()
    pods = Pods(node.simulator.uuids)
    with ExitStack() as ended:
        kubelet_socket = str(ended.enter_context(kubelet(pods.answer)))

        def start() -> Agent:
            made = node.agent(listen=address, kmsg=str(kmsg), kubelet_socket=kubelet_socket)
            return made.until_ready()

        chance = random.Random(7)
        agent, starts = start(), 1
        workloads: list[Workload] = []
        down: list[Window] = []
        watcher = Prometheus(tmp_path / "prometheus", {"apportion": [address]}, {})
        ended.callback(watcher.stop)
        scrapes = ended.enter_context(Scrapes(watcher).watched())
        deadline, number = time.monotonic() + SECONDS, 0
        next_start = time.monotonic() + SECONDS / 4
        while time.monotonic() < deadline:
            number += 1
            device = chance.randrange(4)
            node.simulator.set_utilization(device, chance.random())
            node.simulator.fault(
                chance.choice(FAULTS), LAST_FAULTY, value=None, for_ns=chance.randrange(3 * 10**9)
            )
            if number % 5 == 0:
                node.simulator.xid(LAST_FAULTY, chance.choice((13, 31, 48, 79)))
                pods.replace()
            kind = chance.choice(("steps", "requests"))
            log = tmp_path / "finished"
            arguments = (kind, f"{kind}-{number % 12}", 10**6, 20, log, device, 256)
            workloads.append(node.workload("traffic", *arguments))
            if len(workloads) > 3:
                workloads.pop(0).kill()
            assert twice(agent) == []
            if time.monotonic() > next_start:
                next_start += SECONDS / 4
                before_s = now_s() - SCRAPE_S
                (agent.kill if starts % 2 else agent.stop)()
                agent, starts = start(), starts + 1
                down.append(Window(before_s, now_s()))
            time.sleep(1)
        for workload in workloads:
            workload.kill()
        window = f"[{int(time.monotonic() - deadline) + SECONDS + 60}s]"
        for name in REFUSED:
            assert watcher.own(name) == 0, name
        names = watcher.query(
            'group by (__name__) (last_over_time({__name__=~"apportion_.+_total"}' + window + "))"
        )
        assert len(names) > 20
        for name in (each["metric"]["__name__"] for each in names):
            assert watcher.query(f"resets({name}{window}) > {starts - 1}") == [], name
        of_pods = "apportion_device_seconds_total{pod!=''}"
        assert len(watcher.query(f"group by (pod) (last_over_time({of_pods}{window}))")) > 2
        gone = 'apportion_series_ended_total{reason="gone"}'
        assert watcher.query(f"max_over_time({gone}{window}) > 0")
        began_s = now_s()
        eventually(
            lambda: [each for each in scrapes.all if each.at_s > began_s and not each.error],
            "it is scraped to the end",
        )
        found = scrapes.all
        assert unexplained(found, down) == []
        late = sum(LATE.search(each.error) is not None for each in found)
        well = sum(not each.error for each in found)
        (series,) = watcher.query(
            f'max_over_time(scrape_samples_scraped{{job="apportion"}}{window})'
        )
        print(
            f"SIMULATED: {well} of {len(found)} scrapes, {late} late, {starts} starts, "
            f"{number} workloads and faults, at most {series['value'][1]} samples"
        )
        assert agent.door.value("apportion_undeclared_samples_total") == 0
        assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []
