"""Real agents and a real PostgreSQL that stops answering, goes away, and comes back."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.faults.node import Agent, Node, Workload, sleep_until
from tests.postgres import PostgresServer

from apportion.cost.ledger.migration import migrate

SPANS = 2_000
OUTAGE_S = int(os.environ.get("APPORTION_OUTAGE_S", "6"))
PER_SECOND = 1_000
PEAKS = (
    "outbox_commits",
    "outbox_bytes",
    "shared_ledger_lag_seconds",
    "agent_resident_memory_bytes",
    "ledger_commits_total",
)


class Shared:
    """The shared ledger of a test, as an administrator sees it."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server = server
        self.url = server.url(database)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        with psycopg.connect(self.url) as connection:
            found = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert found is not None
        return int(found[0])


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server for one test: it is stopped here, which others would not like."""
    request.getfixturevalue("postgres_programs")
    made = PostgresServer()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def shared(server: PostgresServer) -> Iterator[Shared]:
    """A migrated database on it."""
    with server.database() as name:
        made = Shared(server, name)
        migrate(made.url)
        yield made


def waiting(agent: Agent) -> float | None:
    return agent.door.value("apportion_outbox_commits")


def shipped(agent: Agent) -> bool:
    """Whether everything has arrived."""
    return (
        agent.door.value("apportion_shared_ledger_connected") == 1
        and waiting(agent) == 0
        and (agent.door.value("apportion_shared_ledger_commits_total") or 0) > 0
    )


def until_shipped(agent: Agent) -> None:
    agent.eventually(lambda: shipped(agent), "all has arrived")


def until_settled(agent: Agent, table: str, count: int) -> None:
    agent.eventually(lambda: agent.book.count(table) >= count, f"{count} rows of {table}")


def finish(node: Node, agent: Agent, shared: Shared) -> None:
    """Stop the agent; then both ledgers must hold, and say the same to the byte."""
    until_shipped(agent)
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []
    assert same_report(node, str(agent.book.path), shared.url)
    done = node.ask("audit", "--ledger", shared.url)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def same_report(node: Node, path: str, url: str) -> bool:
    """All of a report but the ledger's name."""
    texts: list[list[str]] = []
    for ledger in (path, url):
        done = node.ask("report", "--ledger", ledger, "--by", "node,workload,tenant,model")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        texts.append([line for line in lines if not line.startswith("Cost report of ")])
    assert len(texts[0]) > 20
    assert texts[0] == texts[1]
    return True


def bursts(node: Node) -> Workload:
    return node.workload("bursts", "serve", "0", 4096)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_gone_and_back(node: Node, shared: Shared, how: str) -> None:
    """Spans go on while it is gone, dead or only silent; then each charge is there once."""
    agent = node.agent(shared_ledger=shared.url).until_ready()
    writer = bursts(node)
    writer.say(SPANS)
    agent.eventually(lambda: shared.count("span") >= SPANS, "the first spans are shipped")
    if how == "stopped":
        shared.server.stop()
    else:
        shared.server.pause()
    for number in range(2, 5):
        writer.say(SPANS)
        until_settled(agent, "span", number * SPANS)
    assert agent.door.ready()
    if how == "stopped":
        agent.eventually(
            lambda: agent.door.value(
                "apportion_shared_ledger_failures_total", reason="unavailable"
            ),
            "the failure is counted",
        )
        assert agent.door.value("apportion_shared_ledger_connected") == 0
        assert "nothing reaches the shared ledger" in agent.door.says()
        assert "password" not in agent.door.says()
        assert shared.server.password not in agent.log
        agent.eventually(lambda: (waiting(agent) or 0) > 3, "commits wait")
        assert (agent.door.value("apportion_shared_ledger_lag_seconds") or 0) > 0
        shared.server.start()
    else:
        shared.server.resume()
    writer.say(SPANS)
    assert writer.end() == (0, "")
    until_settled(agent, "span", 5 * SPANS + 1)
    finish(node, agent, shared)
    assert shared.count("span") == 5 * SPANS + 1
    assert agent.log.count("nothing is lost meanwhile") <= 1


@pytest.mark.slow
def test_killed_while_it_ships(node: Node, shared: Shared) -> None:
    """kill -9 again and again, in the middle of whatever it does: nothing is missing or twice."""
    log = node.root / "finished"
    log.touch()
    count, rate = 8_000, 1_000
    agent = node.agent(shared_ledger=shared.url).until_ready()
    writer = node.workload("traffic", "requests", "serve", count, rate, log, "0")
    moments = random.Random(11)
    for _ in range(6):
        sleep_until(time.monotonic() + moments.uniform(0.2, 2.0))
        agent.kill()
        agent = node.agent(shared_ledger=shared.url).until_ready()
    assert writer.end() == (0, "")
    until_settled(agent, "span", count)
    agent.eventually(agent.book.all_charged, "every span is charged to its end")
    finish(node, agent, shared)
    assert shared.count("span") == agent.book.count("span") == count


@pytest.mark.slow
def test_two_nodes(node: Node, shared: Shared, tmp_path: Path) -> None:
    """Two agents of two nodes ship to one ledger; a report by node names both."""
    devices = node.simulator.uuids
    agents = [
        node.agent(
            f"node-{number}",
            node=f"node-{number}",
            own=[device],
            ring_dir=str(tmp_path / f"rings-{number}"),
            shared_ledger=shared.url,
        ).until_ready()
        for number, device in enumerate(devices)
    ]
    for agent in agents:
        until_settled(agent, "settlement", 3)
    for agent in agents:
        until_shipped(agent)
        assert agent.stop() == 0, agent.log
    done = node.ask("audit", "--ledger", shared.url)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    done = node.ask("report", "--ledger", shared.url, "--by", "node", "--format", "csv")
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["node", "node-0", "node-1"]
    assert shared.count("settlement") == sum(agent.book.count("settlement") for agent in agents)


def test_older_schema_and_no_schema(node: Node, server: PostgresServer) -> None:
    """The agent meters on while nobody has migrated, says what to run, and ships afterwards."""
    with server.database() as name:
        url = server.url(name)
        agent = node.agent(shared_ledger=url).until_ready()
        agent.eventually(
            lambda: agent.door.value("apportion_shared_ledger_failures_total", reason="schema"),
            "it waits for a migration",
        )
        assert "run `apportion ledger migrate --ledger postgresql://" in agent.door.says()
        done = node.run("ledger", "migrate", "--ledger", url)
        assert done.returncode == 0, done.stderr
        until_settled(agent, "settlement", 3)
        finish(node, agent, Shared(server, name))


def test_gone_at_the_start(node: Node, shared: Shared) -> None:
    """A restarted agent goes on with the devices that it holds, whether anybody answers or not.

    A new one takes none before it is granted them: another agent may have them.
    """
    agent = node.agent(shared_ledger=shared.url).until_ready()
    until_settled(agent, "settlement", 3)
    until_shipped(agent)
    assert agent.stop() == 0, agent.log
    settled = agent.book.count("settlement")
    shared.server.stop()
    agent = node.agent(shared_ledger=shared.url).until_ready()
    until_settled(agent, "settlement", settled + 3)
    new = node.agent(
        "new",
        node="new",
        shared_ledger=shared.url,
        ring_dir=str(node.root / "rings-new"),
        lock_dir=str(node.root / "locks-new"),
    ).until_ready()
    new.eventually(lambda: "has not granted its lease yet" in new.door.says(), "it waits")
    assert new.book.count("settlement") == 0
    assert new.stop() == 0, new.log
    shared.server.start()
    finish(node, agent, shared)
    assert shared.count("settlement") == agent.book.count("settlement") > settled


@pytest.mark.slow
@pytest.mark.timeout(5 * OUTAGE_S + 300)
def test_long_outage(node: Node, shared: Shared) -> None:
    """Gone for as long as APPORTION_OUTAGE_S says, under steady traffic: caught up with in time."""
    node.patience_s = 60 + OUTAGE_S
    log = node.root / "finished"
    log.touch()
    agent = node.agent(shared_ledger=shared.url, tick_period="1s").until_ready()
    until_shipped(agent)
    count = (OUTAGE_S + 10) * PER_SECOND
    writer = node.workload("traffic", "requests", "serve", count, PER_SECOND, log, "0")
    agent.eventually(lambda: shared.count("span") > PER_SECOND, "traffic is shipped")
    shared.server.stop()
    sleep_until(time.monotonic() + OUTAGE_S)
    agent.eventually(lambda: (waiting(agent) or 0) >= OUTAGE_S // 2, "commits wait")
    waited = {name: agent.door.value(f"apportion_{name}") for name in PEAKS}
    begun_s = time.monotonic()
    shared.server.start()
    assert writer.end() == (0, "")
    agent.eventually(
        lambda: agent.book.count("span") >= count, "all are settled", patience_s=node.patience_s
    )
    agent.eventually(lambda: shipped(agent), "all has arrived", patience_s=node.patience_s)
    caught_up_s = time.monotonic() - begun_s
    finish(node, agent, shared)
    assert shared.count("span") == count
    print(f"SIMULATED devices; {count} spans, away for {OUTAGE_S} s; at its end {waited};")
    print(f"caught up with, the last spans included, {caught_up_s:.1f} s after it was back")
