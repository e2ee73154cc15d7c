"""Two agents that know of each other only through the shared ledger, and see the same GPUs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url
from tests.faults.node import Agent, Node
from tests.line import Line
from tests.postgres import PostgresServer
from typing_extensions import LiteralString

SHORT = "2s"


@pytest.fixture
def line(postgres: PostgresServer) -> Iterator[Line]:
    """The way to the server that may be cut."""
    made = Line(postgres.port)
    yield made
    made.close()


def start(node: Node, name: str, url: str, lease: str) -> Agent:
    """An agent on a node of its own: its rings, locks and state are in nobody else's sight."""
    return node.agent(
        name,
        node=name,
        shared_ledger=url,
        lease=lease,
        ring_dir=str(node.root / f"rings-{name}"),
        lock_dir=str(node.root / f"locks-{name}"),
    ).until_ready()


def owned(agent: Agent) -> float:
    return agent.door.value("apportion_device_info", owned="true") or 0


def until_owned(agent: Agent, count: int) -> None:
    agent.eventually(lambda: owned(agent) == count, f"it owns {count} devices")


def until_more(agent: Agent, table: str) -> None:
    """Some ticks later."""
    before = agent.book.count(table)
    agent.eventually(lambda: agent.book.count(table) > before + 4, f"more rows of {table}")


def until_shipped(agent: Agent) -> None:
    agent.eventually(
        lambda: (
            agent.door.value("apportion_shared_ledger_connected") == 1
            and agent.door.value("apportion_outbox_commits") == 0
        ),
        "all has arrived",
    )


def reported(node: Node, url: str) -> dict[str, object]:
    done = node.ask("report", "--ledger", url, "--by", "node", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def audited(node: Node, url: str) -> None:
    done = node.ask("audit", "--ledger", url)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.slow
def test_handed_over_in_peace_and_after_a_death(node: Node, shared_url: str) -> None:
    """One meters and the other waits: until it ends in peace, or its lease runs out after a death.

    Nobody's time is there twice.
    """
    first = start(node, "first", shared_url, "10m")
    until_owned(first, 2)
    second = start(node, "second", shared_url, SHORT)
    second.eventually(
        lambda: second.door.value("apportion_leases_refused") == 2, "both leases are refused"
    )
    second.eventually(
        lambda: "the agent on first holds its lease in the shared ledger" in second.door.says(),
        "it says who holds them",
    )
    assert owned(second) == 0
    until_more(first, "settlement")
    assert second.book.count("settlement") == 0

    assert first.stop() == 0, first.log
    until_owned(second, 2)
    until_more(second, "settlement")
    until_shipped(second)
    second.kill()

    first = start(node, "first", shared_url, SHORT)
    until_owned(first, 2)
    until_more(first, "settlement")
    until_shipped(first)
    assert first.stop() == 0, first.log
    audited(node, shared_url)
    said = str(reported(node, shared_url)["warnings"])
    assert "twice" not in said
    assert "lease" not in said
    assert node.audit(first.book) == node.audit(second.book) == []


@pytest.mark.slow
def test_cut_off_and_taken_over(node: Node, shared_url: str, line: Line) -> None:
    """Cut off, it goes on; another agent takes over; back again, it learns so and stops.

    Both books are whole, and a report has the time of the overlap once, and says whose it left out.
    """
    way = make_url(shared_url).set(port=line.port).render_as_string(hide_password=False)
    first = start(node, "first", way, SHORT)
    until_owned(first, 2)
    until_shipped(first)
    second = start(node, "second", shared_url, SHORT)
    second.eventually(
        lambda: second.door.value("apportion_leases_refused") == 2, "both leases are refused"
    )

    line.cut()
    until_owned(second, 2)
    until_more(second, "settlement")
    assert owned(first) == 2
    until_more(first, "settlement")
    line.mend()
    until_owned(first, 0)
    first.eventually(
        lambda: "the agent on second holds its lease" in first.door.says(), "it says whose they are"
    )
    until_shipped(first)
    assert (first.door.value("apportion_shared_ledger_disowned_seconds_total") or 0) >= 7_200
    until_shipped(second)
    assert second.stop() == first.stop() == 0

    audited(node, shared_url)
    assert node.audit(first.book) == node.audit(second.book) == []
    found = reported(node, shared_url)
    text = str(found["warnings"])
    assert "while another agent held the lease: the hours of first in which it did" in text
    assert "twice" not in text
    proof = found["proof"]
    assert isinstance(proof, dict)
    assert proof["holds"] is True
    with psycopg.connect(shared_url) as connection:
        (count, whole_ns), (rest, kept_ns) = (
            connection.execute(query).fetchone() or (0, 0) for query in (_SETTLED, _KEPT)
        )
    assert count == first.book.count("settlement") + second.book.count("settlement")
    assert rest < count
    assert proof["metered"]["device_ns"] == kept_ns < whole_ns


_SETTLED: LiteralString = "SELECT count(*), sum(end_ns - start_ns)::bigint FROM settlement"
_KEPT: LiteralString = f"""
    {_SETTLED} WHERE (agent_id, start_ns - start_ns % 3600000000000) NOT IN
    (SELECT agent_id, hour_ns FROM disowned)
"""
