"""Another process holds the ledger's write lock."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.faults.node import Node

SPANS = 40


@contextmanager
def locked(path: Path) -> Generator[None, None, None]:
    """Hold the write lock, from this process."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.slow
def test_locked_for_longer_than_a_commit_waits(node: Node) -> None:
    """Ticks wait and say so; what was read meanwhile is committed when the lock is free."""
    agent = node.agent().until_ready()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(SPANS)
    agent.eventually(lambda: agent.book.count("span") == SPANS, "the first spans")

    with locked(agent.book.path):
        writer.say(SPANS)
        agent.eventually(lambda: agent.door.value("apportion_ledger_up") == 0, "it is down")
        assert "another process holds its write lock" in agent.door.says()
        assert (agent.door.value("apportion_ledger_waiting_ticks") or 0) >= 1
        assert (agent.door.value("apportion_ledger_failures_total") or 0) >= 1
        assert (agent.door.value("apportion_agent_degraded") or 0) >= 1
        assert agent.door.ready()
        assert agent.book.count("span") == SPANS
        writer.say(SPANS)
    agent.eventually(lambda: agent.door.value("apportion_ledger_up") == 1, "it is back")
    assert "ledger" not in agent.door.says()
    agent.eventually(lambda: agent.book.count("span") == 3 * SPANS, "nothing was lost")
    assert writer.end() == (0, "")
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []
    assert agent.book.direct_faults() == []


def test_locked_at_the_start(node: Node) -> None:
    """An agent that cannot open its ledger refuses in one line that names the reason."""
    first = node.agent().until_ready()
    assert first.stop() == 0
    with locked(first.book.path):
        agent = node.agent()
        assert agent.process.wait(60) == 2
    last = agent.log.splitlines()[-1]
    assert last.startswith(f"apportion: ledger {first.book.path} ")
    assert "another process holds its write lock" in last
    assert "Traceback" not in agent.log
