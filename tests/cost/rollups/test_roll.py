"""Rolling up: in small pieces, each row once, whoever else does it and whenever it is killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import event
from tests.cost.rollups.random_book import T0, Pair
from tests.cost.rollups.test_report import BY, said

from apportion.core.category import Category
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost.audit import audit
from apportion.cost.ledger.engine import ledger_url, open_engine
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.report import report
from apportion.cost.rollups.marks import Mark, stale_hours
from apportion.cost.rollups.roll import Roller
from apportion.cost.testing import Claim, LedgerBuilder

S, HOUR = NS_PER_SECOND, NS_PER_HOUR


def tables(ledger: LedgerReader) -> dict[str, list[tuple[object, ...]]]:
    """The rollups, without whose they are."""
    names = ("cost", "meter", "part", "span", "step")
    found: dict[str, list[tuple[object, ...]]] = {}
    with ledger.read() as connection:
        for name in names:
            rows = connection.exec_driver_sql(f"SELECT * FROM rollup_{name} ORDER BY 1, 2, 3, 4, 5")
            found[name] = sorted((row[0], *row[2:]) for row in map(tuple, rows))
    return found


def test_pieces_make_no_difference() -> None:
    """By twos or all at once, after each tick or at the end: the rollups are the same."""
    made: list[dict[str, list[tuple[object, ...]]]] = []
    for most in (2, 10_000):
        with Pair(Random(11)) as pair:
            roller = Roller(pair.rolled._engine, "rolled", most_rows=most)
            for _ in range(5):
                pair.tick()
                if most == 2:
                    roller.run()
            roller.run()
            made.append(tables(pair.rolled))
            assert roller.run() == 0
    assert made[0] == made[1]


def test_a_piece_that_came_too_late_is_dropped() -> None:
    """Of two that read the same piece one writes it; the other sees that, and looks again."""
    with Pair(Random(12)) as pair:
        for _ in range(4):
            pair.tick()
        first = Roller(pair.rolled._engine, "first")
        other = Roller(pair.rolled._engine, "other")
        reading = other._reading
        met: list[bool] = []

        def overtaken() -> object:
            """Between the other's reading and its writing, the first one does the same piece."""
            found = reading()
            met.append(first.step(pair.agent_id) if len(met) % 2 == 0 else False)
            return found

        other._reading = overtaken  # type: ignore[method-assign, assignment]
        while other.step(pair.agent_id):
            pass
        assert any(met)
        assert said(pair.rolled, BY[0]) == said(pair.plain, BY[0])
        assert tables(pair.rolled)["cost"]


def test_what_comes_late_is_summed_again() -> None:
    """A span that is recorded hours later changes its hour's rollup, which is stale until then."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.entity(1, "serve")
    builder.ring(1)
    builder.span(1, 1, Interval(T0, T0 + S), entity=1)
    builder.settle(1, Interval(T0, T0 + 3 * HOUR), [Claim(Category.ALLOCATED_IDLE, 1, 1)])
    with builder.ledger() as ledger:
        roller = Roller(ledger._engine, ledger.name)
        roller.run()
        builder.span(1, 2, Interval(T0 + 5 * S, T0 + 6 * S), entity=1, posted_ns=T0 + 4 * HOUR)
        builder.settle(
            1, Interval(T0 + 3 * HOUR, T0 + 4 * HOUR), [Claim(Category.ALLOCATED_IDLE, 1, 1)]
        )
        builder.commit(ledger)
        assert [row.requests for row in report(ledger).rows] == [2]
        roller.run()
        assert [row.requests for row in report(ledger).rows] == [2]
        with ledger.read() as connection:
            query = "SELECT spans FROM rollup_span WHERE hours = 1"
            assert connection.exec_driver_sql(query).scalars().all() == [2]
            assert stale_hours(connection, ledger.agent_id) == []


def test_amounts_beyond_64_bits() -> None:
    """A day and a week in a small currency do not fit an integer column, and are exact."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    per_hour = 9_000_000 * UNITS_PER_CURRENCY
    builder.rate(1, per_hour, currency="VND")
    builder.settle(1, Interval(T0, T0 + 200 * HOUR), [Claim(Category.UNALLOCATED, 1)], rate=1)
    with builder.ledger() as ledger:
        before = report(ledger)
        Roller(ledger._engine, ledger.name).run()
        after = report(ledger)
        assert audit(ledger).holds
    assert after == before
    assert after.proof.metered.units == 200 * per_hour > 1 << 63


def test_reports_read_no_line_that_is_rolled_up() -> None:
    """After a rollup a report looks at the rows since, however many there were before."""
    with Pair(Random(14)) as pair:
        for _ in range(6):
            pair.tick()
        pair.roll()
        seen: list[str] = []
        with pair.rolled.read() as connection:
            mark = Mark.load(connection, pair.agent_id)

            def explain(
                _: object, cursor: sqlite3.Cursor, text: str, values: object, *__: object
            ) -> None:
                if text.startswith("SELECT") and " charge" in text:
                    plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {text}", values)  # type: ignore[arg-type]
                    seen.extend(row[3] for row in plan if " charge " in f"{row[3]} ")

        event.listen(pair.rolled._engine, "before_cursor_execute", explain)
        report(pair.rolled)
        event.remove(pair.rolled._engine, "before_cursor_execute", explain)
    assert mark.last_key > 0
    assert seen
    assert all("agent_id=? AND charge_key" in line for line in seen), seen


KILLED = """
import os, signal, sys
from sqlalchemy import event
from apportion.cost.ledger.engine import ledger_url, open_engine
from apportion.cost.rollups.roll import Roller
engine = open_engine(ledger_url(sys.argv[1]))
left = int(sys.argv[2])
def die(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
event.listen(engine, "before_cursor_execute", die)
event.listen(engine, "commit", die)
Roller(engine, "killed", most_rows=40).run()
"""


def test_killed_anywhere_nothing_is_lost_or_added_twice(tmp_path: Path) -> None:
    """A process that dies between any two statements leaves whole pieces: the next goes on."""
    with Pair(Random(15), folder=tmp_path) as pair:
        for _ in range(5):
            pair.tick()
        statements, ended = 3, False
        while not ended:
            done = subprocess.run(
                [sys.executable, "-c", KILLED, str(tmp_path / "rolled.db"), str(statements)],
                check=False,
                capture_output=True,
                timeout=100,
            )
            ended = done.returncode == 0
            assert ended or done.returncode == -signal.SIGKILL, done.stderr
            assert said(pair.rolled, BY[2]) == said(pair.plain, BY[2])
            statements = statements * 3 + 7
        whole = tables(pair.rolled)
        pair.roll()
        assert tables(pair.rolled) == whole


def test_a_reader_never_sees_half_a_piece(tmp_path: Path) -> None:
    """While another process rolls up, every report in between is the one without rollups."""
    with Pair(Random(16), folder=tmp_path) as pair:
        for _ in range(6):
            pair.tick()
        wanted = said(pair.plain, BY[0])
        program = "import sys; from apportion.agent.cli import main; sys.exit(main(sys.argv[1:]))"
        command = ["ledger", "rollup", "--ledger", str(tmp_path / "rolled.db")]
        child = subprocess.Popen([sys.executable, "-c", program, *command])
        with LedgerReader.of(tmp_path / "rolled.db", clock=pair.clock) as reader:
            while True:
                running = child.poll() is None
                assert said(reader, BY[0]) == wanted
                if not running:
                    break
        assert child.wait(timeout=60) == 0


@pytest.mark.parametrize("name", ["none.db", "empty.db"])
def test_nothing_to_roll_up(tmp_path: Path, name: str) -> None:
    """A ledger in which nothing is settled yet is rolled up already."""
    with LedgerBuilder().ledger(tmp_path / name):
        engine = open_engine(ledger_url(tmp_path / name))
        assert Roller(engine, name).run() == 0
        engine.dispose()
