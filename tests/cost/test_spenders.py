"""Who spent most: the names that a report would list first."""

from __future__ import annotations

import pytest
from tests.cost.test_report import T0, S, fleet, seconds

from apportion.core.category import Category
from apportion.core.units import NS_PER_HOUR
from apportion.cost.report import report
from apportion.cost.spenders import SPENDERS, top_spenders
from apportion.cost.testing import Claim, LedgerBuilder

pytestmark = pytest.mark.usefixtures("each_database")


def test_the_order_is_that_of_cost() -> None:
    """By each dimension as a report's rows; nobody is no name."""
    with fleet().ledger() as ledger:
        found = top_spenders(ledger, T0)
        assert tuple(found) == SPENDERS
        assert found["workload"]
        for dimension, names in found.items():
            units = {
                row.key[0]: row.total.units or 0 for row in report(ledger, by=[dimension]).rows
            }
            assert set(names) == set(units) - {None}
            assert list(names.items()) == [
                (name, units[name]) for name in sorted(names, key=lambda name: -(units[name]))
            ]
        assert top_spenders(ledger, T0 + 9 * NS_PER_HOUR) == {name: {} for name in SPENDERS}


def test_without_prices_time_decides() -> None:
    """Who has a device longest comes first; no amount is taken for 0."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    for key, (name, length) in enumerate({"short": 1, "long": 3}.items(), 1):
        builder.entity(key, name)
        claim = Claim(Category.ALLOCATED_IDLE, 1, key)
        builder.settle(1, seconds(10 * key, 10 * key + length), [claim])
    with builder.ledger() as ledger:
        assert top_spenders(ledger, T0)["workload"] == {"long": 3 * S, "short": S}
