"""Prices are applied to a ledger's past while its agent writes on, or by a command that dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.book import Book
from tests.faults.node import PRICES, Node

from apportion.core.category import Category, SpanKind
from apportion.core.clock import SystemClock
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_MINUTE
from apportion.cost.audit import audit
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.testing import Claim, LedgerBuilder

HOURS = 2
REQUESTS = 60
DOLLAR = 10**12
CONTRACT = PRICES.replace("list-estimate", "contract")
"""An estimate would replace nothing here."""
_COMMAND = """
import sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from apportion.agent.cli import main

def die(*_):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)

@event.listens_for(Engine, "before_cursor_execute")
def stop(connection, cursor, statement, *rest):
    if MOMENT in statement:
        die()

if MOMENT == "COMMIT":
    event.listen(Engine, "commit", die)
sys.exit(main(sys.argv[1:]))
"""


def history(path: Path, device: str) -> int:
    """A ledger with two whole hours of requests that ended lately; where its last hour ends."""
    end_ns = SystemClock().realtime_ns() // NS_PER_HOUR * NS_PER_HOUR
    builder = LedgerBuilder()
    builder.device(1, device, simulated=True)
    builder.rate(1, 12 * DOLLAR // 5, as_of="2026-05-01")
    builder.entity(1, "served-before", tenant="a")
    builder.ring(1, ended_ns=end_ns)
    start_ns = end_ns - HOURS * NS_PER_HOUR
    for number in range(1, REQUESTS + 1):
        request = Interval(start_ns, start_ns + NS_PER_MINUTE)
        rest = Interval(request.end_ns, request.end_ns + NS_PER_MINUTE)
        builder.span(1, number, request, SpanKind.REQUEST, entity=1)
        builder.settle(1, request, [Claim(Category.DIRECT, 1, 1, 1, number)], rate=1)
        builder.settle(1, rest, [Claim(Category.ALLOCATED_IDLE, 1, 1)], rate=1)
        start_ns = rest.end_ns
    # Into the hour that runs, so that the one before it is over.
    now = Interval(end_ns, end_ns + 1_000_000_000)
    builder.settle(1, now, [Claim(Category.ALLOCATED_IDLE, 1, 1)], rate=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Ledger.open(
        path,
        node="fault-node",
        cluster=None,
        currency="USD",
        version="0",
        clock=SystemClock(),
    ) as ledger:
        builder.commit(ledger)
    return end_ns


def adjusted(book: Book, end_ns: int) -> int:
    """What adjustments before an instant come to."""
    query = "select coalesce(sum(units), 0) from charge where kind = 3 and start_ns < ?"
    return int(book.rows(query, end_ns)[0][0])


def finished(book: Book) -> int:
    """How many spans have ended and are in the ledger."""
    return int(book.rows("select count(*) from span where status = 1")[0][0])


@pytest.mark.slow
def test_prices_are_applied_while_the_agent_runs(node: Node) -> None:
    """Neither disturbs the other: spans go on, the past costs the last price, the book is clean."""
    gpu = node.simulator.uuids[0]
    end_ns = history(node.root / "state-agent" / "ledger.db", gpu)
    agent = node.agent().until_ready()
    writer = node.workload("bursts", "serve", "0", 4096)
    tables = {price: node.root / f"{price}.yaml" for price in ("3.60", "1.20", "4.80")}
    spans = REQUESTS
    for price, table in tables.items():
        table.write_text(CONTRACT.replace("2.40", price))
        writer.say(50)
        spans += 50
        config = ["--config", node.root / "agent.yaml", "--prices", table]
        done = node.run("prices", "apply", "--since", "1d", *config)
        assert done.returncode == 0, done.stderr
        assert "posted" in done.stdout
    assert writer.end() == (0, "")
    agent.eventually(lambda: finished(agent.book) == spans + 1, "every span is in the ledger")
    assert adjusted(agent.book, end_ns) == HOURS * (480 - 240) * DOLLAR // 100
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []
    assert len(agent.book.rows("select * from rate where rate_key < 0")) == len(tables)

    again = node.agent().until_ready()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(50)
    assert writer.end() == (0, "")
    again.eventually(lambda: finished(again.book) == spans + 52, "it goes on")
    assert again.stop() == 0, again.log
    assert node.audit(again.book) == []
    settled = "select distinct rate_key from settlement where start_ns >= ?"
    assert all(key > 0 for (key,) in again.book.rows(settled, end_ns))
    assert again.book.rows("select min(charge_key) from charge where kind <> 3") == [(1,)]


@pytest.mark.parametrize("moment", ["INSERT INTO repricing", "INSERT INTO charge", "COMMIT"])
def test_a_command_that_dies_has_posted_nothing(tmp_path: Path, moment: str) -> None:
    """kill -9 anywhere leaves the ledger as it was, and the same command then does it all."""
    path = tmp_path / "ledger.db"
    end_ns = history(path, "GPU-1")
    (tmp_path / "prices.yaml").write_text(CONTRACT.replace("2.40", "3.60"))
    arguments = ["prices", "apply", "--since", "1d", "--ledger", str(path), "--node", "fault-node"]
    arguments += ["--prices", str(tmp_path / "prices.yaml")]

    def run(at: str) -> int:
        program = f"MOMENT = {at!r}\n{_COMMAND}"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode

    assert run(moment) == -9
    book = Book(path)
    assert (book.count("repricing"), adjusted(book, end_ns)) == (0, 0)
    with LedgerReader.of(path) as reader:
        assert audit(reader).holds
    assert run("never") == 0
    assert adjusted(book, end_ns) == HOURS * 120 * DOLLAR // 100
    with LedgerReader.of(path) as reader:
        assert audit(reader).holds
