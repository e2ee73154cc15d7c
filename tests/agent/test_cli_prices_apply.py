"""`apportion prices apply` on a ledger in a file, as a person runs it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from apportion.agent.cli import main
from apportion.core.category import Category
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.lock import COMMAND, LedgerLock
from apportion.cost.testing import Claim, LedgerBuilder

T0 = 472_222 * NS_PER_HOUR
"""2023-11-14 22:00 UTC."""
TABLE = """
- {device: NVIDIA H100 80GB HBM3, per_hour: "2.40", currency: USD, covers: gpu, basis: contract,
   source: the contract, as_of: 2023-11-01, match: {capacity: reserved}}
- {device: NVIDIA H100 80GB HBM3, per_hour: "1.00", currency: USD, covers: gpu, basis: list,
   source: a spot history, as_of: 2023-11-01, match: {capacity: spot}}
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Two hours without a price and a third that runs; two devices, one of an unknown kind."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.device(2, "GPU-2", "NVIDIA Unheard-of")
    builder.entity(1, "serve")
    for device in (1, 2):
        idle = Claim(Category.ALLOCATED_IDLE, device, 1)
        builder.settle(device, Interval(T0, T0 + 5 * NS_PER_HOUR // 2), [idle])
    path = tmp_path / "ledger.db"
    builder.ledger(path).close()
    (tmp_path / "prices.yaml").write_text(TABLE)
    return path


def apply(ledger: Path, *more: str, capacity: str = "reserved", since: str = "2023-11-14") -> int:
    """Run the command."""
    where = ["--ledger", str(ledger), "--node", "node-1"]
    prices = ["--prices", str(ledger.with_name("prices.yaml"))]
    placement = ["--placement", f"capacity={capacity}"]
    return main(["prices", "apply", "--since", since, *where, *prices, *placement, *more])


def test_it_prices_what_was_unpriced(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole hours that are posted get the price of this node's row; the rest is named."""
    assert apply(ledger) == 0
    said = capsys.readouterr()
    assert said.out == (
        "DEVICE  DEVICE_HOURS  BEFORE  AFTER  COST_BEFORE  COST_AFTER      CHANGE          "
        "CURRENCY  BASIS     SOURCE        AS_OF\n"
        "GPU-1   2.000                 2.40                4.800000000000  4.800000000000  "
        "USD       contract  the contract  2023-11-01\n"
        "posted 2 lines in 2 hours\n"
    )
    assert said.err == (
        "left out the hour from 2023-11-15 00:00Z: it is not over in the ledger\n"
        "2.500 device-hours of GPU-2 (NVIDIA Unheard-of) stay as they are: the table has no price "
        "for it\n"
        "an agent that runs goes on with the table that it was started with: restart it, so that "
        "time from now on has these prices, too\n"
    )
    assert apply(ledger) == 0
    assert capsys.readouterr().out == "nothing to post\n"
    assert main(["audit", "--ledger", str(ledger)]) == 0


def test_a_later_price_adjusts_the_earlier_one(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is posted is the difference to what the book has by now, with both prices."""
    assert apply(ledger, "--until", "2023-11-14T23:00") == 0
    capsys.readouterr()
    assert apply(ledger, "--format", "csv", capacity="spot") == 0
    spot = "USD,list,a spot history,2023-11-01"
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"GPU-1,1.000,2.40,1.00,2.400000000000,1.000000000000,-1.400000000000,{spot}",
        f"GPU-1,1.000,,1.00,,1.000000000000,1.000000000000,{spot}",
    ]
    assert main(["audit", "--ledger", str(ledger)]) == 0


def test_an_estimate_replaces_no_chosen_price(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The built-in table prices what has no price, gives way to a table, and never comes back."""
    assert apply(ledger, "--prices", "built-in") == 0
    assert "list-estimate" in capsys.readouterr().out
    assert apply(ledger) == 0
    assert "  4.800000000000  " in capsys.readouterr().out
    assert apply(ledger, "--prices", "built-in") == 0
    said = capsys.readouterr()
    assert said.out == "nothing to post\n"
    assert "of GPU-1 (NVIDIA H100 80GB HBM3) stay as they are: an estimate replaces" in said.err


def test_a_dry_run_posts_nothing(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says the same in the conditional, and the file stays as it was, its currency too."""
    before = ledger.read_bytes()
    assert apply(ledger, "--dry-run") == 0
    assert "would post 2 lines in 2 hours" in capsys.readouterr().out
    assert apply(ledger, "--dry-run", "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["posted"], document["lines"], document["hours"]) == (False, 2, 2)
    assert document["changes"][0]["cost_after"] == "4.800000000000"
    assert document["skipped"][0]["devices"] == ["GPU-1"]
    assert ledger.read_bytes() == before


def test_the_page_shows_what_is_said(
    ledger: Path, capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    """docs/prices.md has the very words of a dry run."""
    assert apply(ledger, "--dry-run") == 0
    said = capsys.readouterr()
    page = (repository / "docs" / "prices.md").read_text()
    assert f"--dry-run\n{said.out}{said.err}```" in page


def test_rules_of_a_row_are_posted(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rental that is over is rounded up, in lines of their own, with the sum of each rule."""
    table = ledger.with_name("prices.yaml")
    table.write_text(TABLE.replace('per_hour: "2.40"', 'per_hour: "2.40", granularity: 3600'))
    assert apply(ledger) == 0
    said = capsys.readouterr().out
    assert "GPU-1   billing_rounding  1.200000000000  USD       the contract" in said
    assert "posted 3 lines in 3 hours" in said
    table.write_text(TABLE)
    assert apply(ledger, "--format", "json") == 0
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert (rule["category"], rule["change"]) == ("billing_rounding", "-1.200000000000")
    assert main(["audit", "--ledger", str(ledger)]) == 0


def test_the_first_price_decides_the_currency(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ledger without amounts takes the table's currency; another one is refused afterwards."""
    assert apply(ledger) == 0
    with sqlite3.connect(ledger) as connection:
        assert connection.execute("SELECT currency FROM agent").fetchone() == ("USD",)
    connection.close()
    table = ledger.with_name("prices.yaml")
    table.write_text(TABLE.replace("USD", "EUR").replace("2.40", "3.00"))
    assert apply(ledger) == 2
    assert "is in USD, the prices are in EUR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--node", "b"], "has nothing of node 'b', only of node-1"),
        (["--until", "2023-11-13"], "--until 2023-11-13 is not later than --since"),
        (["--placement", "capacity=owned"], "no price holds on this node"),
        (["--ledger", "sqlite:////nowhere/ledger.db"], "does not exist"),
        (["--ledger", "postgresql://host/x"], "give the SQLite ledger on the node itself"),
        (["--since", "yesterday"], "is not an instant"),
        (["--since", "99999999d"], "is not between 1970 and 2262"),
    ],
)
def test_refusals(
    ledger: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong node, period, placement or ledger is refused in one line, and nothing is posted."""
    before = ledger.read_bytes()
    assert apply(ledger, *more) == 2
    assert message in capsys.readouterr().err
    assert ledger.read_bytes() == before


def test_one_command_at_a_time(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two that plan at once would post twice: the second is told to wait."""
    lock = LedgerLock.take(ledger, COMMAND)
    assert apply(ledger) == 2
    assert "another command writes to ledger" in capsys.readouterr().err
    lock.release()
    assert apply(ledger) == 0
