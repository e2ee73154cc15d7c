"""A Prometheus scrapes a node for minutes: GPUs fail, workloads come and go, the agent restarts.

    APPORTION_SOAK_SECONDS=300 python -m pytest tests/faults/test_scrape_soak.py

It takes as long as it is told and is no part of the suite.
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
from tests.faults.node import Agent, Node, Workload
from tests.monitoring import Prometheus

SECONDS = int(os.environ.get("APPORTION_SOAK_SECONDS", "0"))
FAULTS = ("lost", "ecc-storm", "thermal", "hang", "slow", "garbage-processes")
LAST_FAULTY = 3
REFUSED = (
    "prometheus_target_scrapes_sample_duplicate_timestamp_total",
    "prometheus_target_scrapes_sample_out_of_order_total",
    "prometheus_target_scrapes_sample_out_of_bounds_total",
)


def twice(agent: Agent) -> list[str]:
    """Series that one answer of /metrics has more than once."""
    seen = Counter(
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(agent.door.text())
        for sample in family.samples
    )
    return [str(series) for series, count in seen.items() if count > 1]


@pytest.mark.skipif(not SECONDS, reason="a soak: set APPORTION_SOAK_SECONDS to its length")
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.needs_program("prometheus", "setpriv")
@pytest.mark.parametrize("node", [4], indirect=True)
def test_scrapes_go_on(node: Node, tmp_path: Path) -> None:
    """Only a restart fails a scrape or sets a counter back; no sample is refused or doubled."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    kmsg = tmp_path / "kmsg"
    kmsg.touch()

    def start() -> Agent:
        return node.agent(listen=address, kmsg=str(kmsg)).until_ready()

    chance = random.Random(7)
    agent = start()
    workloads: list[Workload] = []
    starts = 1
    with ExitStack() as ended:
        watcher = Prometheus(tmp_path / "prometheus", {"apportion": [address]}, {})
        ended.callback(watcher.stop)
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
            kind = chance.choice(("steps", "requests"))
            log = tmp_path / "finished"
            arguments = (kind, f"{kind}-{number % 12}", 10**6, 20, log, device, 256)
            workloads.append(node.workload("traffic", *arguments))
            if len(workloads) > 3:
                workloads.pop(0).kill()
            assert twice(agent) == []
            if time.monotonic() > next_start:
                next_start += SECONDS / 4
                (agent.kill if starts % 2 else agent.stop)()
                agent, starts = start(), starts + 1
            time.sleep(1)
        for workload in workloads:
            workload.kill()
        window = f"[{SECONDS + 60}s]"
        for name in REFUSED:
            assert watcher.own(name) == 0, name
        names = watcher.query(
            'group by (__name__) (last_over_time({__name__=~"apportion_.+_total"}' + window + "))"
        )
        assert len(names) > 20
        for name in (each["metric"]["__name__"] for each in names):
            assert watcher.query(f"resets({name}{window}) > {starts - 1}") == [], name
        failed = watcher.query(f'resets(up{{job="apportion"}}{window}) > {starts - 1}')
        assert failed == []
        (scraped,) = watcher.query(f'count_over_time(up{{job="apportion"}}{window})')
        (well,) = watcher.query(f'sum_over_time(up{{job="apportion"}}{window})')
        (series,) = watcher.query(
            f'max_over_time(scrape_samples_scraped{{job="apportion"}}{window})'
        )
        print(
            f"SIMULATED: {well['value'][1]} of {scraped['value'][1]} scrapes, {starts} starts, "
            f"{number} workloads and faults, at most {series['value'][1]} samples"
        )
    assert agent.door.value("apportion_undeclared_samples_total") == 0
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []
