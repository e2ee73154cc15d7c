"""A shared PostgreSQL is rolled up as a node's own ledger is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.cost.rollups.random_book import T0, Pair
from tests.cost.rollups.test_report import BY, PERIODS, said
from tests.cost.rollups.test_roll import tables
from tests.cost.shipped import ShippedLedger, roller
from tests.postgres import PostgresServer

from apportion.agent.cli import main
from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit import audit

HOUR = NS_PER_HOUR


@pytest.fixture
def url(postgres: PostgresServer, ledger_template: str) -> Iterator[str]:
    """An empty shared ledger."""
    with postgres.database(ledger_template) as name:
        yield postgres.url(name)


@pytest.mark.parametrize("seed", [31, 33])
def test_rolled_up_or_not(url: str, tmp_path: Path, seed: int) -> None:
    """Random books that are shipped and rolled up say what the node's own rows say."""
    with Pair(Random(seed), tmp_path, shared_url=url) as pair:
        for tick in range(6):
            pair.tick()
            pair.roll(pair.random.choice((0, 1, 3, None)))
            by, period = BY[(seed + tick) % len(BY)], PERIODS[tick % len(PERIODS)]
            assert said(pair.rolled, by, period) == said(pair.plain, by, period)
        then_ns = pair.now_ns
        early = said(pair.plain, BY[0], (T0, T0 + HOUR), then_ns)
        pair.tick()
        pair.roll()
        assert said(pair.rolled, BY[0], (T0, T0 + HOUR), then_ns) == early
        wrong = [check.name for check in audit(pair.rolled).checks if not check.holds]
        assert [name for name in wrong if name != "spans"] == []


def test_two_at_once_do_no_harm(url: str, tmp_path: Path) -> None:
    """Two commands that roll up one shared ledger leave what one would."""
    made: list[object] = []
    for many in (1, 2):
        folder = tmp_path / str(many)
        folder.mkdir()
        with Pair(Random(34), folder, shared_url=url if many == 2 else None) as pair:
            for _ in range(5):
                pair.tick()
            works = [roller(pair.rolled, most_rows=40) for _ in range(many)]
            threads = [threading.Thread(target=work.run) for work in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=120)
            assert roller(pair.rolled).run() == 0
            made.append(tables(pair.rolled))
    assert made[0] == made[1]


def test_the_command_takes_its_url(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ledger rollup` works on a PostgreSQL, and says when there is nothing left to do."""
    with Pair(Random(35), tmp_path, shared_url=url) as pair:
        for _ in range(3):
            pair.tick()
        assert isinstance(pair.rolled, ShippedLedger)
        assert main(["ledger", "rollup", "--ledger", url]) == 0
        assert "rolled up in" in capsys.readouterr().out
        assert main(["ledger", "rollup", "--ledger", url]) == 0
        assert capsys.readouterr().out == "already rolled up\n"
        assert said(pair.rolled, BY[0]) == said(pair.plain, BY[0])
