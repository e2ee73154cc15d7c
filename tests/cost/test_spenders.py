"""Who spent most: the names that a report would list first."""

from __future__ import annotations

import pytest
from tests.cost.test_report import T0, fleet

from apportion.core.units import NS_PER_HOUR
from apportion.cost.report import report
from apportion.cost.spenders import SPENDERS, top_spenders

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
            assert [units[name] for name in names] == sorted(
                (units[name] for name in names), reverse=True
            )
        assert top_spenders(ledger, T0 + 9 * NS_PER_HOUR) == {name: [] for name in SPENDERS}
