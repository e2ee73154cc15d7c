"""Several ledgers are one to every statement, and what cannot be added is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from apportion.core.category import Category, SpanKind
from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerError
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost.audit import audit
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.several import MOST_FILES, open_ledgers
from apportion.cost.report import report
from apportion.cost.report_rows import Report
from apportion.cost.testing import Claim, LedgerBuilder

S = NS_PER_SECOND
T0 = 472_222 * NS_PER_HOUR
PER_HOUR = 36 * UNITS_PER_CURRENCY


def node(
    path: Path, name: str, device: str, *, currency: str = "USD", steps: range = range(1, 6)
) -> Path:
    """A ledger of one node: ranks of a run's steps, a second each, and an idle hour before."""
    clock = ManualClock(realtime_ns=T0)
    with Ledger.open(
        path, node=name, cluster=None, currency=currency, version="0", clock=clock
    ) as ledger:
        builder = LedgerBuilder()
        builder.device(1, device)
        builder.rate(1, PER_HOUR, currency=currency)
        builder.entity(1, "pretrain", run="run-1")
        builder.ring(1)
        idle = Claim(Category.UNALLOCATED, 1)
        builder.settle(1, Interval(T0, T0 + NS_PER_HOUR), [idle], rate=1)
        for step in steps:
            start_ns = T0 + NS_PER_HOUR + step * S
            interval = Interval(start_ns, start_ns + S)
            if step == steps[0]:
                before = Interval(T0 + NS_PER_HOUR, start_ns)
                builder.settle(1, before, [idle], rate=1)
            builder.span(1, step, interval, SpanKind.STEP, entity=1, step=step, training_tokens=100)
            builder.settle(1, interval, [Claim(Category.DIRECT, 1, 1, 1, step)], rate=1)
        builder.commit(ledger)
    return path


def said(*paths: Path) -> Report:
    with open_ledgers(paths, ManualClock(realtime_ns=T0)) as ledger:
        return report(ledger, by=["workload", "run"])


def test_two_nodes_are_one_report(tmp_path: Path) -> None:
    """Cost adds up over files, and a step whose ranks ran on two nodes is one step."""
    paths = [
        node(tmp_path / "a.db", "node-a", "GPU-a"),
        node(tmp_path / "b.db", "node-b", "GPU-b", steps=range(3, 8)),
    ]
    alone = [said(path) for path in paths]
    both = said(*paths)
    row = next(row for row in both.rows if row.key == ("pretrain", "run-1"))
    assert both.proof.holds
    assert both.proof.metered == alone[0].proof.metered + alone[1].proof.metered
    assert {device.device for device in both.devices} == {"GPU-a", "GPU-b"}
    assert (row.steps, row.training_tokens) == (7, 1_000)
    assert row.units_per_step == (10 * PER_HOUR // 3_600 + 3) // 7
    with open_ledgers(paths) as ledger:
        result = audit(ledger)
    assert result.holds, result.first


def test_a_copy_is_not_added_twice(tmp_path: Path) -> None:
    """A backup beside its origin is refused, with both names."""
    origin = node(tmp_path / "origin.db", "node-a", "GPU-a")
    shutil.copy(origin, tmp_path / "backup.db")
    with pytest.raises(LedgerError, match=r"origin\.db and in .*backup\.db.*only one"):
        said(origin, tmp_path / "backup.db")
    with pytest.raises(LedgerError, match="only one"):
        said(origin, origin)


def test_currencies_are_named(tmp_path: Path) -> None:
    """Two currencies are never added, and the message says which ledger is in which."""
    one = node(tmp_path / "usd.db", "node-a", "GPU-a")
    other = node(tmp_path / "krw.db", "node-b", "GPU-b", currency="KRW")
    with pytest.raises(LedgerError, match=r"usd\.db is in USD and .*krw\.db in KRW"):
        said(one, other)


def test_owners_of_one_device_are_named(tmp_path: Path) -> None:
    """A device that two nodes metered at once is named instead of added, in those hours only."""
    one = node(tmp_path / "a.db", "node-a", "GPU-a")
    other = node(tmp_path / "b.db", "node-b", "GPU-a")
    with pytest.raises(LedgerError, match="GPU-a was metered by node-a and node-b at the same"):
        said(one, other)
    with open_ledgers([one, other]) as ledger:
        assert report(ledger, T0 + 2 * NS_PER_HOUR).rows == ()


def test_what_cannot_be_read_together_is_named(tmp_path: Path) -> None:
    """A missing file, a server, and too many files each say what to do."""
    one = node(tmp_path / "a.db", "node-a", "GPU-a")
    with pytest.raises(LedgerError, match=r"none\.db does not exist"):
        said(one, tmp_path / "none.db")
    with pytest.raises(LedgerError, match="already holds the ledgers of all agents") as caught:
        open_ledgers([one, "postgresql://user:secret@host/name"])
    assert "secret" not in str(caught.value)
    with pytest.raises(LedgerError, match="let the agents ship to a PostgreSQL"):
        open_ledgers([tmp_path / f"{number}.db" for number in range(MOST_FILES + 1)])


def test_as_many_files_as_promised(tmp_path: Path) -> None:
    """So many can be attached with the SQLite that is here."""
    paths = [
        node(tmp_path / f"{number}.db", f"node-{number}", f"GPU-{number}")
        for number in range(MOST_FILES)
    ]
    assert said(*paths).proof.metered.device_ns > MOST_FILES * NS_PER_HOUR
