"""The agent rolls its ledger up and lets go of old rows, and never goes down over it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

import pytest
from tests.cost.rollups.random_book import T0
from tests.cost.rollups.two_days import HOURS, counts, rolled_up, two_days

from apportion.agent.upkeep import PAUSE_NS, Upkeep
from apportion.core.clock import ManualClock
from apportion.core.units import NS_PER_HOUR
from apportion.cost.keeping import Keep
from apportion.cost.report import report

DAY = 24 * NS_PER_HOUR


def test_a_turn_rolls_up_and_lets_go(tmp_path: Path) -> None:
    """After one turn only the last day has rows, and a report says what it said before."""
    path, clock = tmp_path / "ledger.db", ManualClock()
    with two_days().ledger(path) as ledger:
        before = report(ledger, by=["workload", "day"])
        upkeep = Upkeep(str(path), ledger.agent_id, Keep(DAY), clock)
        upkeep.turn(threading.Event())
        upkeep.shutdown(0)
        assert counts(ledger)["span"] == 24
        assert report(ledger, by=["workload", "day"]) == before
    assert clock.monotonic_ns() % PAUSE_NS == 0
    assert clock.monotonic_ns() > PAUSE_NS


def test_nothing_goes_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Without `keep_lines` every row stays, for ever."""
    path = tmp_path / "ledger.db"
    with two_days().ledger(path) as ledger:
        whole = counts(ledger)
        upkeep = Upkeep(str(path), ledger.agent_id, Keep(None), ManualClock())
        upkeep.turn(threading.Event())
        upkeep.shutdown(0)
        assert counts(ledger) == whole


def test_a_stop_is_heard_between_two_pieces(tmp_path: Path) -> None:
    """A drain does not wait until a long backlog is rolled up."""
    path, stop = tmp_path / "ledger.db", threading.Event()

    class Stopping(ManualClock):
        def wait(self, event: threading.Event, timeout_ns: int) -> bool:
            """The stop comes in the first pause."""
            event.set()
            return super().wait(event, timeout_ns)

    with two_days().ledger(path) as ledger:
        upkeep = Upkeep(str(path), ledger.agent_id, Keep(None), Stopping())
        upkeep.run(stop)
        upkeep.shutdown(0)
        with ledger.read() as connection:
            query = "SELECT pieces FROM rollup_mark"
            assert connection.exec_driver_sql(query).scalar() == 1


def test_what_cannot_be_kept_up_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A rollup that differs from its rows is an error in the log, once, and the agent goes on."""
    path = tmp_path / "ledger.db"
    with rolled_up(path) as ledger:
        with sqlite3.connect(path) as connection:
            place = f"hours = 1 AND start_ns = {T0 + 5 * NS_PER_HOUR}"
            connection.execute(f"UPDATE rollup_cost SET units_low = units_low + 1 WHERE {place}")
        connection.close()
        upkeep = Upkeep(str(path), ledger.agent_id, Keep(DAY), ManualClock())
        with caplog.at_level(logging.ERROR):
            for _ in range(2):
                upkeep.turn(threading.Event())
        upkeep.shutdown(0)
        assert counts(ledger)["settlement"] == 2 * (HOURS - 5)
    (said,) = caplog.messages
    assert "keeps rows that are old" in said
    assert "apportion audit" in said


def test_a_locked_ledger_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever holds the write lock is waited for; there is no error, and nothing half is left."""
    path = tmp_path / "ledger.db"
    with two_days().ledger(path) as ledger:
        upkeep = Upkeep(str(path), ledger.agent_id, Keep(None), ManualClock(), busy_timeout_ms=10)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with caplog.at_level(logging.INFO):
            upkeep.turn(threading.Event())
        other.execute("ROLLBACK")
        other.close()
        assert caplog.messages == []
        upkeep.turn(threading.Event())
        upkeep.shutdown(0)
        with ledger.read() as connection:
            query = "SELECT count(*) FROM rollup_meter WHERE hours = 1"
            assert connection.exec_driver_sql(query).scalar() == HOURS
