"""SIGTERM: the agent drains, and a second signal ends it at once."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing

import pytest
from tests.faults.node import Node

SPANS = 200
BY_SIGNAL = 128
"""A shell's exit status for a process that a signal ended, less the signal's number."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(node: Node, number: signal.Signals) -> None:
    """Whatever had finished when the signal came is in the ledger; the exit status is 0."""
    # Ticks are rare: without draining, the spans would not be there.
    agent = node.agent(tick_period="60s").until_ready()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(SPANS)
    agent.eventually(lambda: agent.door.value("apportion_rings_attached") == 1, "it is attached")

    writer.say(SPANS)
    newcomer = node.workload("bursts", "newcomer", "1", 4096)
    newcomer.say(SPANS)
    agent.send(number)

    assert agent.process.wait(60) == 0, agent.log
    assert agent.book.names().total() == agent.book.count("span") == 3 * SPANS
    assert agent.book.faults() == []
    assert writer.end() == newcomer.end() == (0, "")


def test_the_second_signal_forces(node: Node) -> None:
    """A drain that is held up does not hold the process: the second signal is its end."""
    agent = node.agent(drain="60s").until_ready()
    agent.eventually(lambda: agent.book.count("settlement") > 0, "a first settlement")
    with closing(sqlite3.connect(agent.book.path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        agent.send(signal.SIGTERM)
        agent.eventually(lambda: "SIGTERM: stopping" in agent.log, "it begins to stop")
        agent.send(signal.SIGTERM)
        assert agent.process.wait(60) == BY_SIGNAL + signal.SIGTERM
        connection.execute("ROLLBACK")
    assert "SIGTERM again: ending at once" in agent.log
    assert agent.book.faults() == []
