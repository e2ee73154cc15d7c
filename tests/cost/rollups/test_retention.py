"""Old rows go, their sums stay: nothing that a report says is lost, and nothing goes unproven."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.world import rate
from tests.cost.rollups.random_book import T0, Pair
from tests.cost.rollups.test_report import BY, PERIODS, said
from tests.cost.rollups.two_days import DAY, HOUR, HOURS, counts, kept, let_go, rolled_up, two_days

from apportion.core.errors import LedgerError
from apportion.cost.audit import audit, audit_text
from apportion.cost.keeping import Keep
from apportion.cost.ledger.info import ledger_info
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.rate import PriceTable
from apportion.cost.report import report
from apportion.cost.repricing.apply import apply_prices
from apportion.cost.retention import Retention
from apportion.cost.rollups.roll import Roller
from apportion.cost.training.run_report import run_report
from apportion.cost.training.run_text import run_table


@settings(max_examples=3)
@given(seed=st.integers(0, 10**9), by=st.sampled_from(BY), period=st.sampled_from(PERIODS))
def test_reports_stay_the_same(
    seed: int, by: tuple[str, ...], period: tuple[int | None, int | None]
) -> None:
    """Random books lose their old rows bit by bit, and no report and no audit tells."""
    lengths = (60, 4_000, 20_000)
    with Pair(Random(seed), lengths_s=lengths, furthest_hours=12) as pair:
        assert isinstance(pair.rolled, Ledger)
        retention = kept(pair.rolled)
        for _ in range(12):
            pair.tick()
            pair.roll(pair.random.choice((1, 5, None)))
            while pair.random.random() < 0.95 and retention.step(pair.agent_id):
                pass
        assert said(pair.rolled, by, period) == said(pair.plain, by, period)
        wrong = [check for check in audit(pair.rolled).checks if not check.holds]
        # Its lines are posted before the records of their spans come.
        assert [check.name for check in wrong if check.name != "spans"] == []


def test_old_rows_go_and_their_sums_stay(tmp_path: Path) -> None:
    """A day of rows is kept: two days of report as before, and an audit that says from when on."""
    path = tmp_path / "ledger.db"
    with two_days().ledger(path) as ledger:
        before = report(ledger, by=["workload", "day"])
    with let_go(path) as ledger:
        left = counts(ledger)
        assert (left["span"], left["settlement"]) == (24, 48)
        assert 48 <= left["charge"] <= 50  # two of the hour before were posted on its end
        assert report(ledger, by=["workload", "day"]) == before
        result = audit(ledger)
        assert result.holds, audit_text(result)
        assert "rows of node-1 are kept from 2023-11-16 02:00:00Z on" in audit_text(result)
        assert kept(ledger).run() == 0


def test_nothing_goes_before_it_is_rolled_up() -> None:
    """Without rollups, or with some that are behind, everything stays."""
    with two_days().ledger() as ledger:
        whole = counts(ledger)
        kept(ledger).run()
        assert counts(ledger) == whole
        roller = Roller(ledger._engine, ledger.name, most_rows=50)
        for _ in range(3):
            roller.step(ledger.agent_id)
        kept(ledger).run()
        assert counts(ledger) == whole


@pytest.mark.parametrize("table", ["rollup_cost", "rollup_meter", "rollup_part", "rollup_span"])
def test_nothing_goes_unproven(table: str, tmp_path: Path) -> None:
    """A rollup that is not the sum of its rows keeps them, and says which one it is."""
    with rolled_up(tmp_path / "ledger.db") as ledger:
        place = f"hours = 1 AND start_ns = {T0 + 5 * HOUR}"
        statement = f"UPDATE {table} SET units_low = units_low + 1 WHERE {place}"
        with ledger._engine.begin() as connection:
            assert connection.exec_driver_sql(statement).rowcount > 0
        with pytest.raises(LedgerError, match=rf"{table}.*run `apportion audit`"):
            kept(ledger).run()
        assert counts(ledger)["settlement"] == 2 * (HOURS - 5)
        assert not audit(ledger).holds


def test_rows_that_are_needed_elsewhere_stay(tmp_path: Path) -> None:
    """What a shared ledger does not have yet is kept, however old it is."""
    with rolled_up(tmp_path / "ledger.db") as ledger:
        ledger.outbox.switch_on(1 << 20)
        retention = Retention(ledger._engine, ledger.name, Keep(DAY))
        assert retention.run() == 0
        with ledger._engine.begin() as connection:
            arrived = f"UPDATE shipping SET since_ns = {T0 + 10 * HOUR + 5}"
            assert connection.exec_driver_sql(arrived).rowcount == 1
        retention.run()
        with ledger.read() as connection:
            query = "SELECT min(start_ns) FROM settlement"
            assert connection.exec_driver_sql(query).scalar() == T0 + 10 * HOUR


def test_lines_are_never_numbered_twice(tmp_path: Path) -> None:
    """After every line is deleted an agent that comes back goes on with new keys."""
    with rolled_up(tmp_path / "ledger.db") as ledger:
        last = ledger.load_state(0).next_charge_key - 1
        with ledger._engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM charge")
        assert ledger.load_state(0).next_charge_key == last + 1


def test_prices_of_what_is_gone_stay(tmp_path: Path) -> None:
    """New prices are for hours with lines; commands never number a line as a deleted one was."""
    path = tmp_path / "ledger.db"
    with two_days().ledger(path) as ledger:
        prices = PriceTable((rate(5 * 10**12),))
        first = apply_prices(ledger, "node-1", prices, T0, T0 + 2 * HOUR)
        assert first.lines > 0
        Roller(ledger._engine, ledger.name).run()
        kept(ledger).run()
        with pytest.raises(LedgerError, match="give --since 2023-11-16 02:00:00Z or later"):
            apply_prices(ledger, "node-1", prices, T0, None)
        with ledger._engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM charge WHERE charge_key < 0")
        second = apply_prices(ledger, "node-1", prices, T0 + 40 * HOUR, T0 + 42 * HOUR)
        with ledger.read() as connection:
            query = "SELECT max(charge_key) FROM charge WHERE charge_key < 0"
            assert connection.exec_driver_sql(query).scalar() == -first.lines - 1
        assert second.lines > 0
        Roller(ledger._engine, ledger.name).run()
        assert report(ledger).proof.holds
        assert audit(ledger).holds, audit_text(audit(ledger))


def test_info_says_what_is_left(tmp_path: Path) -> None:
    """How far a ledger is rolled up, and from when on its rows are there."""
    path = tmp_path / "ledger.db"
    with two_days().ledger(path):
        (agent,) = ledger_info(path).agents
        assert (agent.rolled_until_unix_ns, agent.kept_from_unix_ns) == (None, None)
    with let_go(path):
        (agent,) = ledger_info(path).agents
        assert agent.rolled_until_unix_ns == T0 + (HOURS - 1) * HOUR
        assert agent.kept_from_unix_ns == T0 + 28 * HOUR


def test_a_run_of_old_lines_says_so(tmp_path: Path) -> None:
    """Runs have no rollups: what is missing from a run's report is named."""
    with two_days().ledger() as whole, let_go(tmp_path / "ledger.db") as ledger:
        assert run_report([whole]).warnings == ()
        (warning,) = run_report([ledger]).warnings
        assert "node-1 are kept from 2023-11-16 02:00:00Z on" in warning
        assert warning in run_table(run_report([ledger]))
        assert run_report([ledger], T0 + 40 * HOUR).warnings == ()


def test_rollups_go_when_told_to(tmp_path: Path) -> None:
    """Sums are kept for as long as they are asked for, by whole weeks, and never less than rows."""
    with rolled_up(tmp_path / "ledger.db") as ledger:
        Retention(ledger._engine, ledger.name, Keep(DAY, DAY)).run()
        with ledger.read() as connection:
            query = "SELECT min(start_ns) FROM rollup_meter WHERE hours = 1"
            oldest_ns = connection.exec_driver_sql(query).scalar_one()
        # The ledger begins 26 hours before a week ends.
        assert oldest_ns == T0 + 26 * HOUR
        found = report(ledger)
        assert found.proof.holds
        assert found.proof.metered.device_ns == (HOURS - 26) * HOUR
        assert audit(ledger).holds, audit_text(audit(ledger))


def test_a_day_is_the_least() -> None:
    """Settlement looks back for hours: rows cannot go under it."""
    with two_days().ledger() as ledger, pytest.raises(LedgerError, match="less than a day"):
        Retention(ledger._engine, ledger.name, Keep(DAY - 1))
