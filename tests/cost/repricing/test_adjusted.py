"""What somebody sees who looks at a ledger's adjustments again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cost.repricing.books import BookPlan, built, plans, rows, tables

from apportion.core.category import Category
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.rate import PriceTable
from apportion.cost.repricing.adjusted import adjusted
from apportion.cost.repricing.apply import apply_prices


def lines(ledger: Ledger) -> Counter[Category]:
    """What the ledger's adjustments come to, by category."""
    found: Counter[Category] = Counter()
    for row in rows(ledger, "charge"):
        if row["kind"] == ChargeKind.ADJUSTMENT:
            found[Category(row["category"])] += row["units"]
    return found


@settings(max_examples=settings().max_examples // 8)
@given(
    plan=plans,
    asked=st.lists(st.tuples(tables(), st.booleans()), min_size=2, max_size=4),
)
def test_each_line_is_seen_once(plan: BookPlan, asked: Sequence[tuple[PriceTable, bool]]) -> None:
    """However often somebody looks: raised less lowered is what was posted since the first look."""
    with built(plan) as ledger:
        first, before = None, Counter[Category]()
        seen: Counter[Category] = Counter()
        key: int | None = None
        for table, looks in asked:
            apply_prices(ledger, "node-1", table, None, None)
            if not looks:
                continue
            with ledger.read() as connection:
                found = adjusted(connection, ledger.agent_id, key)
            if key is None:
                assert found.sums == ()
                before = lines(ledger)
            for one in found.sums:
                assert one.raised_units >= 0
                assert one.lowered_units >= 0
                seen[one.category] += one.raised_units - one.lowered_units
            first, key = first or found, found.least_key
            assert key <= 0
            posted = lines(ledger)
            assert {each: posted[each] - before[each] for each in posted} == {
                each: seen[each] for each in posted
            }
