"""Prices applied to settled time, as an agent shows it that runs meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.agent.test_cli_prices_apply import T0, TABLE, apply

from apportion.agent.adjustment_watch import AdjustmentWatch
from apportion.agent.metrics.exposition import Exposition
from apportion.agent.snapshot import SnapshotBoard
from apportion.agent.testing import full_snapshot
from apportion.core.category import Category
from apportion.core.clock import ManualClock
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR
from apportion.cost.testing import Claim, LedgerBuilder

COST, APPLIED = "adjusted_cost_usd_total", "prices_applied_timestamp_seconds"
NEW = {"category": "allocated_idle", "reason": "new_price"}


def shown(watch: AdjustmentWatch, name: str, **labels: str) -> float | None:
    """What /metrics says."""
    board = SnapshotBoard()
    snapshot = replace(
        full_snapshot(),
        adjusted_units=watch.units,
        prices_applied_unix_ns=watch.applied_unix_ns,
    )
    board.publish(snapshot)
    registry = Exposition(board, "test", strict=True).registry
    return registry.get_sample_value(f"apportion_{name}", labels)


def settled(path: Path) -> AdjustmentWatch:
    """A ledger with two whole hours of one device, and what looks at it."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.entity(1, "serve")
    idle = Claim(Category.ALLOCATED_IDLE, 1, 1)
    builder.settle(1, Interval(T0, T0 + 5 * NS_PER_HOUR // 2), [idle])
    path.with_name("prices.yaml").write_text(TABLE)
    with builder.ledger(path) as ledger:
        return AdjustmentWatch(str(path), ledger.agent_id, ManualClock())


def test_what_new_prices_change_is_on_metrics(tmp_path: Path) -> None:
    """From 0, upwards only, whichever way prices go; when it was done, even before the start."""
    path = tmp_path / "ledger.db"
    watch, later = settled(path), settled(tmp_path / "other.db")
    assert shown(watch, COST, **NEW, change="raised") == 0
    watch.look()
    assert shown(watch, APPLIED) is None
    assert apply(path) == 0
    watch.look()
    watch.look()
    assert shown(watch, COST, **NEW, change="raised") == 4.8
    assert apply(path, capacity="spot") == 0
    watch.look()
    assert shown(watch, COST, **NEW, change="raised") == 4.8
    assert shown(watch, COST, **NEW, change="lowered") == 2.8
    rule = {"category": "billing_rounding", "reason": "price_rule", "change": "raised"}
    assert shown(watch, COST, **rule) == 0

    assert apply(tmp_path / "other.db") == 0
    later.look()
    assert shown(later, COST, **NEW, change="raised") == 0
    assert shown(later, APPLIED) is not None


def test_a_ledger_that_is_away_is_asked_again(tmp_path: Path) -> None:
    """Nothing that is known is forgotten meanwhile, and nothing is missed afterwards."""
    path = tmp_path / "ledger.db"
    watch = settled(path)
    watch.look()
    assert apply(path) == 0
    away = path.rename(tmp_path / "away.db")
    watch.look()
    assert shown(watch, COST, **NEW, change="raised") == 0
    away.rename(path)
    watch.look()
    assert shown(watch, COST, **NEW, change="raised") == 4.8
