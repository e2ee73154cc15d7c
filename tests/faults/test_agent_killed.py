"""kill -9 of the agent, again and again, while workloads write."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from tests.faults.node import Node, sleep_until

SPANS = 60_000
PER_SECOND = 2_000
KILLS = 10
LONGEST_LIFE_S = 3.0
IN_ITS_START = 5
"""This kill does not wait until the agent is ready."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_finished_span_is_in_the_ledger_once(node: Node) -> None:
    """Ten kills at random moments lose no span, charge none twice, and the book adds up."""
    log = node.root / "finished"
    log.touch()
    agent = node.agent().until_ready()
    quarter, rate = SPANS // 4, PER_SECOND // 4
    # A step and its phase are two spans.
    workloads = [
        node.workload("traffic", "steps", "train-a", quarter // 2, rate // 2, log, "0"),
        node.workload("traffic", "steps", "train-b", quarter // 2, rate // 2, log, "1"),
        node.workload("traffic", "requests", "serve-a", quarter, rate, log, "0"),
        node.workload("traffic", "requests", "serve-b", quarter, rate, log, "1"),
    ]
    moments = random.Random(7)
    for kill in range(KILLS):
        if kill != IN_ITS_START:
            agent.until_ready()
        sleep_until(time.monotonic() + moments.uniform(0.0, LONGEST_LIFE_S))
        assert agent.alive, agent.log
        agent.kill()
        agent = node.agent()
    for workload in workloads:
        assert workload.end(120) == (0, "")
    finished = log.read_text().split()

    agent.eventually(lambda: agent.book.count("span") >= SPANS, "all spans in the ledger")
    agent.eventually(agent.book.all_charged, "every span is charged to its end")

    assert agent.stop() == 0, agent.log
    assert len(finished) == len(set(finished)) == SPANS
    assert agent.book.names() == Counter(finished)
    assert node.audit(agent.book) == []
    assert agent.book.direct_faults() == []
