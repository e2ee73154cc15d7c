"""Who spends most lately, asked of the ledger."""

from __future__ import annotations

from pathlib import Path

from tests.cost.test_report import T0, fleet

from apportion.agent.spender_watch import SpenderWatch
from apportion.core.clock import ManualClock
from apportion.core.units import NS_PER_HOUR


def test_what_is_found_is_taken_once(tmp_path: Path) -> None:
    """Each name with its cost; without a ledger nothing is said, and nothing decided."""
    path = tmp_path / "ledger.db"
    watch = SpenderWatch(str(path), ManualClock(realtime_ns=T0 + NS_PER_HOUR))
    watch.look()
    assert watch.take() is None
    with fleet().ledger(path):
        watch.look()
    found = watch.take()
    assert found is not None
    assert found["run"] == {"run-7": 30 * 10**10}
    assert list(found["tenant"]) == ["chat", "search"]
    assert watch.take() is None
