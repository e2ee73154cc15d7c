"""Two agents on one device: never added, always named, and the rest still adds up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from apportion.core.category import Category
from apportion.core.clock import ManualClock
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost.audit import audit
from apportion.cost.ledger.engine import WRITES
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.shipping_tables import disowned
from apportion.cost.report import report
from apportion.cost.testing import Claim, LedgerBuilder

HOUR, S = NS_PER_HOUR, NS_PER_SECOND
T0 = 472_222 * HOUR  # 2023-11-14 22:00:00 UTC
DOLLAR = UNITS_PER_CURRENCY


def open_node(path: Path, node: str) -> Ledger:
    return Ledger.open(
        path, node=node, cluster=None, currency=None, version="0", clock=ManualClock()
    )


def metered(ledger: Ledger, *spells: Interval, device: str = "GPU-1") -> None:
    """A device at a dollar an hour, all of it for requests of one workload."""
    builder = LedgerBuilder()
    builder.rate(1, DOLLAR)
    builder.entity(1, f"serve-{ledger.agent_id}")
    builder.ring(1)
    for key, spell in enumerate(spells, 1):
        builder.device(key, device)
        builder.span(1, key, Interval(spell.start_ns, spell.end_ns - S), entity=1)
        builder.settle(key, spell, [Claim(Category.DIRECT, key, 1, 1, key)], rate=1)
    if ledger.load_state(0).tables["method"]:
        builder.batch.inserted.pop("method")
    builder.commit(ledger)


def mark(ledger: Ledger, *hours: int, key: int = 1) -> None:
    """As the shared ledger does when what arrives was settled under a lost lease."""
    values = [{"agent_id": ledger.agent_id, "hour_ns": hour, "device_key": key} for hour in hours]
    writing = ledger._engine.connect().execution_options(**{WRITES: True})
    with writing as connection, connection.begin():
        connection.execute(insert(disowned), values)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Ledger, Ledger]]:
    """Two agents whose rows are in one ledger."""
    path = tmp_path / "ledger.db"
    with open_node(path, "node-1") as first, open_node(path, "node-2") as second:
        yield first, second


def test_marked_hours_are_left_out(nodes: tuple[Ledger, Ledger]) -> None:
    """An agent's marked hours are in no sum; who, what and when is said, and the proof holds."""
    first, second = nodes
    metered(first, Interval(T0, T0 + 3 * HOUR))
    metered(second, Interval(T0 + HOUR, T0 + 3 * HOUR))
    mark(first, T0 + HOUR, T0 + 2 * HOUR)
    found = report(first, by=["node"])
    assert [(row.key[0], row.total.units) for row in found.rows] == [
        ("node-1", DOLLAR),
        ("node-2", 2 * DOLLAR),
    ]
    assert [row.requests for row in found.rows] == [0, 1]
    assert found.proof.holds
    assert found.proof.metered.device_ns == 3 * HOUR
    said = (
        "node-1 metered GPU-1 while another agent held the lease: the hours of node-1 in which it "
        "did, from 2023-11-14 23:00Z to 2023-11-15 01:00Z, are left out with all their 2.0 "
        "device-hours"
    )
    assert [text for text in found.warnings if "node-" in text] == [said]
    assert audit(first).holds


def test_only_hours_of_the_period_are_named(nodes: tuple[Ledger, Ledger]) -> None:
    """A report of a day says nothing of another day's overlap."""
    first, second = nodes
    metered(first, Interval(T0, T0 + 2 * HOUR))
    metered(second, Interval(T0 + HOUR, T0 + 2 * HOUR))
    mark(first, T0 + HOUR)
    before = report(first, None, T0 + HOUR, by=["node"])
    assert [row.total.units for row in before.rows] == [DOLLAR]
    assert not [text for text in before.warnings if "lease" in text]
    after = report(first, T0 + HOUR, None, by=["node"])
    assert [row.key for row in after.rows] == [("node-2",)]
    assert [text for text in after.warnings if "lease" in text]


def test_overlap_without_a_mark_is_named(nodes: tuple[Ledger, Ledger]) -> None:
    """Where nobody kept leases the sum has the time twice, and says so."""
    first, second = nodes
    metered(first, Interval(T0, T0 + HOUR + 2 * S))
    metered(second, Interval(T0 + HOUR + S, T0 + 2 * HOUR))
    found = report(first, by=["node"])
    assert "GPU-1 was metered by node-1 and node-2: its cost is in here twice" in found.warnings


def test_handing_over_is_no_overlap(nodes: tuple[Ledger, Ledger]) -> None:
    """One agent after the other, and back again, is nobody's fault: each has its own time."""
    first, second = nodes
    metered(first, Interval(T0, T0 + 600 * S), Interval(T0 + 1_200 * S, T0 + HOUR))
    metered(second, Interval(T0 + 601 * S, T0 + 1_200 * S))
    found = report(first, by=["node"])
    assert not [text for text in found.warnings if "twice" in text]
    assert found.proof.holds
    assert audit(first).holds
    (row,) = [row for row in found.devices if row.node == "node-1"]
    assert row.metered.device_ns == HOUR - 600 * S
    assert row.settled_until_unix_ns == T0 + HOUR
    assert row.metered.same_amounts(row.sum_of_parts)
