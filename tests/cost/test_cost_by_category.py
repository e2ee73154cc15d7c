"""What a flame graph in money adds up to: the report's amounts, and those of single spans."""

from __future__ import annotations

from typing import Final

import pytest
from tests.cost.test_report import CENT_PER_SECOND, T0, S, fleet, seconds

from apportion.core.category import Category, Phase, SpanKind
from apportion.core.errors import LedgerError
from apportion.core.units import UNITS_PER_CURRENCY
from apportion.cost.cost_by_category import NOTHING_SPENT, CostByCategory, CostFilter
from apportion.cost.report import report
from apportion.cost.testing import Claim, LedgerBuilder

pytestmark = pytest.mark.usefixtures("each_database")

CENT = UNITS_PER_CURRENCY // 100


def test_everything_is_the_meters_amount() -> None:
    """With no filter it is what was metered, category by category, running sums included."""
    with fleet(simulated=True).ledger() as ledger:
        spent = CostByCategory.of(ledger, CostFilter())
        found = report(ledger)

    assert spent.total.same_amounts(found.proof.metered)
    assert {row.category for row in found.categories} >= set(spent.amounts)
    assert (spent.currency, spent.estimated, spent.simulated) == ("USD", True, True)


FILTERS: Final[list[tuple[CostFilter, dict[str, int]]]] = [
    (CostFilter(workload="pretrain"), {"direct": 16, "between_steps": 6, "lost": 8}),
    (CostFilter(run="run-7", phase=Phase.BACKWARD), {"direct": 8, "lost": 4}),
    (CostFilter(workload="pretrain", steps=((1, 2),)), {"direct": 16}),
    (CostFilter(steps=((2, 2), (3, 9))), {"direct": 8, "lost": 8}),
    (CostFilter(steps=((1, 1),), phase=Phase.FORWARD), {"direct": 2}),
    (CostFilter(tenant="search"), {"direct": 10}),
    (CostFilter(tenant="search", start_unix_ns=T0 + 3600 * S), {}),
    (CostFilter(workload="nobody", steps=((1, 1),)), {}),
    (CostFilter(steps=()), {}),
    (CostFilter(steps=((99, 99),)), {}),
]


def test_filters() -> None:
    """Workload, run, tenant and phase as in reports; steps by the lines of their spans."""
    with fleet().ledger() as ledger:
        for chosen, cents in FILTERS:
            spent = CostByCategory.of(ledger, chosen)

            assert {
                category.label: (quantity.units or 0) // CENT
                for category, quantity in spent.amounts.items()
            } == cents, chosen


def test_steps_apart_are_steps_together() -> None:
    """Each step's own amounts, all ranks and attempts of its number; their sum is the range's."""
    chosen = CostFilter(workload="pretrain", steps=((1, 9),))
    with fleet().ledger() as ledger:
        by_step = CostByCategory.by_step(ledger, chosen)
        together = CostByCategory.of(ledger, chosen)

    cents = {
        step: {category.label: (own.units or 0) // CENT for category, own in one.amounts.items()}
        for step, one in by_step.items()
    }
    assert cents == {1: {"direct": 8}, 2: {"direct": 8}, 3: {"lost": 8}}
    assert sum(by_step.values(), NOTHING_SPENT) == together


def test_one_request() -> None:
    """Its posted lines and its running sum, whatever category they have; no other request's."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, CENT_PER_SECOND)
    builder.entity(1, "server")
    builder.ring(1)
    for number, is_open in ((1, False), (2, True), (3, False)):
        interval = seconds(number, number + 1)
        name = "mine" if number < 3 else "other"
        builder.span(1, number, interval, SpanKind.REQUEST, entity=1, request=name)
        claim = Claim(Category.DIRECT, 1, 1, 1, number, open=is_open)
        builder.settle(1, interval, [claim], rate=1, power_mw=1_000)

    with builder.ledger() as ledger:
        spent = CostByCategory.of(ledger, CostFilter(request="mine"))

    assert (spent.total.units, spent.total.energy_mj) == (2 * CENT, 2_000)
    assert not spent.estimated


def test_currencies_are_not_added() -> None:
    """Dollars and euros of two steps make no sum."""
    builder = LedgerBuilder()
    builder.ring(1)
    builder.entity(1, "trainer")
    for key, currency in ((1, "USD"), (2, "EUR")):
        builder.device(key, f"GPU-{key}")
        builder.rate(key, CENT_PER_SECOND, currency=currency)
        interval = seconds(key, key + 1)
        builder.span(1, key, interval, SpanKind.STEP, entity=1, step=key)
        builder.settle(key, interval, [Claim(Category.DIRECT, key, 1, 1, key)], rate=key)

    with builder.ledger() as ledger:
        assert CostByCategory.of(ledger, CostFilter(steps=((2, 2),))).currency == "EUR"
        with pytest.raises(LedgerError, match="EUR, USD"):
            CostByCategory.of(ledger, CostFilter(steps=((1, 2),)))
