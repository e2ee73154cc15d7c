"""Rates as the ledger knows them: what was metered stays, what comes holds from now on."""

from __future__ import annotations

import numpy as np
from tests.agent.pipeline.world import rate

from apportion.agent.pipeline.interned import EntityKey, Interned
from apportion.agent.pipeline.registry import Registry
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.batch import LedgerState, TickBatch
from apportion.cost.settlement.work import ROOT

DAY = 24 * NS_PER_HOUR
NOW = 20_000 * DAY
NAME = "NVIDIA H100 80GB HBM3"


def registry() -> Registry:
    """An empty one."""
    return Registry.of(LedgerState(1, {}, [], 1))


def spans(found: Registry, *rates: object, now_ns: int = NOW, offset_ns: int = 0) -> list[object]:
    """(rate key, from, to) after pricing with `rates`."""
    periods = found.periods(NAME, rates, now_ns, offset_ns)  # type: ignore[arg-type]
    return [(period.rate, period.from_ns, period.to_ns) for period in periods]


def test_the_same_table_again_changes_nothing() -> None:
    """A restart with the same prices makes no new rate."""
    found = registry()
    dated = rate(7, valid_from_ns=NOW - DAY, valid_to_ns=NOW + DAY)
    first = spans(found, dated)
    assert first == [(1, NOW - DAY, NOW + DAY)]
    found.committed()
    assert spans(found, dated, now_ns=NOW + 5) == first
    batch = TickBatch()
    found.write(batch)
    assert "rate" not in batch.replaced


def test_a_new_price_holds_from_now_and_the_old_one_until_then() -> None:
    """Undated prices: the cut is where settlement stands."""
    found = registry()
    assert spans(found, rate(7)) == [(1, None, None)]
    assert spans(found, rate(8), now_ns=NOW) == [(1, None, NOW), (2, NOW, None)]
    assert spans(found, rate(8), now_ns=NOW + DAY) == [(1, None, NOW), (2, NOW, None)]


def test_a_price_that_is_taken_out_of_the_table_ends_now() -> None:
    """Otherwise the device would go on at a price that nobody asks for."""
    found = registry()
    spans(found, rate(7))
    assert spans(found, now_ns=NOW) == [(1, None, NOW)]
    assert spans(found, now_ns=NOW + 2 * DAY)[0] == (1, None, NOW)


def test_prices_of_the_past_are_never_stretched() -> None:
    """A rate that ended keeps its end when the table changes."""
    found = registry()
    old = rate(7, valid_to_ns=NOW - DAY)
    new = rate(8, valid_from_ns=NOW - DAY)
    before = spans(found, old, new, now_ns=NOW - 2 * DAY)
    assert before == [(1, None, NOW - DAY), (2, NOW - DAY, None)]
    after = spans(found, rate(9), now_ns=NOW)
    assert after == [(1, None, NOW - DAY), (2, NOW - DAY, NOW), (3, NOW, None)]


def test_a_date_that_is_to_come_moves_with_the_wall_clock() -> None:
    """Dates are wall time; settled time stays as it was."""
    found = registry()
    table = (rate(7, valid_to_ns=NOW + DAY), rate(8, valid_from_ns=NOW + DAY))
    spans(found, *table)
    moved = spans(found, *table, offset_ns=NS_PER_HOUR)
    edge_ns = NOW + DAY - NS_PER_HOUR
    assert moved == [(1, None, edge_ns), (2, edge_ns, None)]
    assert spans(found, *table, now_ns=NOW + 2 * DAY) == moved


def test_ties_depend_on_identity_and_not_on_keys() -> None:
    """Two agents that met rings in another order break ties alike."""
    hashes: list[list[int]] = []
    for names in (("a" * 32, "b" * 32), ("b" * 32, "a" * 32)):
        found = registry()
        keys = {name: found.rings.key(name) for name in names}
        roots = np.zeros(3, ROOT)
        roots["ring"] = [keys["a" * 32], keys["b" * 32], keys["b" * 32]]
        roots["number"] = [1, 1, 2]
        hashes.append(found.ties(roots, [])(np.arange(4)).tolist())
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 4


def test_interned_values_are_written_once() -> None:
    """A failed commit writes them again, a good one never."""
    table: Interned[EntityKey] = Interned([(3, EntityKey(workload="known"))])
    assert table.key(EntityKey(workload="known")) == 3
    assert table.key(EntityKey(workload="new")) == 4
    assert table.fresh() == [(4, EntityKey(workload="new"))]
    assert table.fresh() == [(4, EntityKey(workload="new"))]
    table.committed()
    assert table.fresh() == []
    assert EntityKey(workload="new") in table
