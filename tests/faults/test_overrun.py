"""A ring that is written faster than it is read."""

from __future__ import annotations

import signal

import pytest
from tests.faults.node import Node

CAPACITY = 256
FIRST, BURST, LAST = 100, 5_000, 50


@pytest.mark.parametrize("dead", [False, True])
def test_the_loss_reported_is_the_loss_caused(node: Node, dead: bool) -> None:
    """While the agent is stopped, or dead, a small ring is overrun: lost = finished - recorded."""
    agent = node.agent().until_ready()
    writer = node.workload("bursts", "serve", "0", CAPACITY)
    writer.say(FIRST)
    agent.eventually(lambda: agent.book.count("span") == FIRST, "the first burst in the ledger")
    read_before = 0.0 if dead else FIRST  # by the process whose counters are asked at the end

    if dead:
        agent.kill()
        writer.say(BURST)
        agent = node.agent().until_ready()
    else:
        agent.send(signal.SIGSTOP)
        writer.say(BURST)
        agent.send(signal.SIGCONT)
    agent.eventually(
        lambda: agent.book.count("span") >= FIRST + CAPACITY - 1, "the rest of the burst"
    )
    writer.say(LAST)
    assert writer.end() == (0, "")
    agent.eventually(lambda: agent.door.value("apportion_rings_attached") == 0, "the end is read")
    agent.eventually(agent.book.all_charged, "every span is charged to its end")
    lost = agent.door.value("apportion_ring_records_total", outcome="lost")
    accepted = agent.door.value("apportion_ring_records_total", outcome="accepted")
    residual = agent.door.value("apportion_conservation_residual_units")
    assert agent.stop() == 0, agent.log

    finished = FIRST + BURST + LAST + 1  # and the request beside them
    in_ledger = agent.book.count("span")
    assert lost == finished - in_ledger > 0
    assert accepted == in_ledger - FIRST + read_before
    assert agent.book.rows("select sum(lost) from ring_position") == [(lost,)]
    assert residual == 0
    assert node.audit(agent.book) == []
    assert agent.book.direct_faults() == []
    # The request that was open beside the lost ones shared its time with them.
    beside = agent.book.rows(
        "select max(incomplete) from charge join span using (agent_id, ring_key, number) "
        "where request_id = 'beside'"
    )
    assert beside == [(1,)]
