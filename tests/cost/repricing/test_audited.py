"""The audit proves adjustments from rates and settlements, and names the first that is wrong."""

from __future__ import annotations

import sqlite3
from fractions import Fraction
from pathlib import Path

import pytest
from tests.agent.pipeline.world import rate
from tests.cost.repricing.books import H100, HOUR, T0, S
from tests.cost.test_audit import copied

from apportion.core.category import Category
from apportion.core.interval import Interval
from apportion.cost.audit import AuditResult, audit, audit_text
from apportion.cost.ledger.price_tables import repricing
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.schema import charge
from apportion.cost.rate import PriceTable
from apportion.cost.repricing.apply import apply_prices
from apportion.cost.testing import Claim, LedgerBuilder

HALF = T0 + HOUR // 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two devices over an hour at a third of a dollar; re-priced from the half of it, then whole.

    Rates: 1 as metered, -1 and then -2 as applied.
    """
    builder = LedgerBuilder()
    for key in (1, 2):
        builder.device(key, f"GPU-{key}")
    builder.group(3, [1, 2])
    builder.rate(1, Fraction(10**12, 3))
    builder.entity(1, "serve")
    builder.ring(1)
    builder.span(1, 1, Interval(T0, T0 + 100 * S), entity=1)
    request = Claim(Category.DIRECT, 3, 1, 1, 1)
    for device in (1, 2):
        builder.settle(device, Interval(T0, T0 + 100 * S), [request], rate=1)
        idle = [Claim(Category.ALLOCATED_IDLE, device, 1)]
        builder.settle(device, Interval(T0 + 100 * S, T0 + HOUR + S), idle, rate=1)
    place = tmp_path / "ledger.db"
    with builder.ledger(place) as ledger:
        later = rate(Fraction(10**13, 7), H100, valid_from_ns=HALF)
        apply_prices(ledger, "node-1", PriceTable((later,)), None, None)
        apply_prices(ledger, "node-1", PriceTable((rate(2 * 10**12, H100),)), None, None)
        result = audit(ledger)
        assert result.holds, audit_text(result)
    return place


def after(path: Path, statement: str) -> AuditResult:
    """What the audit says once somebody has been at the file with SQL."""
    connection = sqlite3.connect(path)
    assert connection.execute(statement).rowcount != 0, f"changed nothing: {statement}"
    connection.commit()
    connection.close()
    with LedgerReader.of(path) as reader:
        return audit(reader)


FIRST = f"device_key = 1 AND start_ns = {HALF} AND to_rate_key = -1"
TAMPERINGS = {
    "a new price made dearer": (
        f"UPDATE repricing SET units = units + 1 WHERE {FIRST}",
        "repriced",
        f"device GPU-1 on node-1, [{HALF}, {T0 + HOUR}) ns: units of a new price",
    ),
    "a new price for a longer time": (
        f"UPDATE repricing SET start_ns = start_ns - 1 WHERE {FIRST}",
        "repriced",
        "start of rate -1 should be <=",
    ),
    "a new price beyond its hour": (
        f"UPDATE repricing SET end_ns = end_ns + 1 WHERE {FIRST}",
        "repriced",
        "end of a new price should be in the hour of its start",
    ),
    "a new price that was taken out": (
        f"DELETE FROM repricing WHERE {FIRST}",
        "repriced",
        "rate before a new price should be 1, the ledger has -1",
    ),
    "a new price posted twice": (
        copied(repricing, FIRST, posted_ns="posted_ns + 7"),
        "repriced",
        "rate before a new price should be -2, the ledger has 1",
    ),
    "a new price from another one": (
        f"UPDATE repricing SET from_rate_key = NULL WHERE {FIRST}",
        "repriced",
        "rate before a new price should be 1, the ledger has NULL",
    ),
    "a new price for time that nobody settled": (
        copied(repricing, FIRST, device_key=9),
        "repriced",
        "settled time with a new price",
    ),
    "a new rate changed afterwards": (
        "UPDATE rate SET numerator = '2000000000001' WHERE rate_key = -2",
        "repriced",
        "units of a new price",
    ),
    "a new rate taken out": (
        "DELETE FROM rate WHERE rate_key = -2",
        "lines",
        "rate_key should be known, the ledger has -2",
    ),
    "an adjustment made dearer": (
        "UPDATE charge SET units = units + 1 WHERE kind = 3 AND number = 1 AND rate_key = -2",
        "adjusted",
        f"group GPU-1 on node-1, [{T0}, {T0 + HOUR}) ns: units of adjustments from rate 1 to -2",
    ),
    "an adjustment taken out": (
        "DELETE FROM charge WHERE kind = 3 AND charge_key = (SELECT min(charge_key) FROM charge)",
        "adjusted",
        "units of adjustments",
    ),
    "an adjustment posted twice": (
        copied(charge, "kind = 3 AND number = 1 AND rate_key = -2", charge_key=-99),
        "adjusted",
        "units of adjustments",
    ),
    "an adjustment moved to another price": (
        "UPDATE charge SET rate_key = -1 WHERE kind = 3 AND number = 1 AND rate_key = -2",
        "adjusted",
        "units of adjustments from rate 1 to -2",
    ),
    "an adjustment with time": (
        "UPDATE charge SET device_ns = 1 WHERE kind = 3 AND number = 1",
        "lines",
        "device_ns should be not negative in a charge, 0 in an adjustment",
    ),
    "an adjustment with energy": (
        "UPDATE charge SET energy_mj = 0 WHERE kind = 3 AND number = 1",
        "lines",
        "energy_mj should be NULL in an adjustment",
    ),
    "an adjustment from an unknown rate": (
        "UPDATE charge SET from_rate_key = -77 WHERE kind = 3 AND number = 1",
        "lines",
        "from_rate_key should be known, and only in an adjustment",
    ),
    "a charge with two rates": (
        "UPDATE charge SET from_rate_key = 1 WHERE kind = 1 AND number = 1",
        "lines",
        "from_rate_key should be known, and only in an adjustment",
    ),
    "an adjustment by an unknown method": (
        "UPDATE charge SET method_key = 77 WHERE kind = 3",
        "lines",
        "method_key should be known",
    ),
    "an adjustment for somebody without time": (
        "UPDATE charge SET number = 2 WHERE kind = 3 AND number = 1",
        "beside",
        "an adjustment of group GPU-1+GPU-2",
    ),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found(path: Path, kind: str) -> None:
    """Whatever was changed behind the ledger's back, the first check that can see it says where."""
    statement, name, message = TAMPERINGS[kind]
    result = after(path, statement)
    failing = [check for check in result.checks if not check.holds]
    assert [check.name for check in failing][:1] == [name], audit_text(result)
    assert message in str(result.first)
