"""Budgets in the agent: as they are configured, and what /metrics shows of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cost.test_report import T0, fleet

from apportion.agent.budget_watch import BudgetWatch
from apportion.agent.config import AgentConfig
from apportion.agent.config_budgets import made_of
from apportion.agent.config_layers import LoadedConfig, load_config
from apportion.agent.config_problems import config_problems
from apportion.agent.metrics.exposition import Exposition
from apportion.agent.snapshot import SnapshotBoard
from apportion.agent.testing import full_snapshot
from apportion.core.clock import ManualClock
from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_HOUR

GOOD = """\
budgets:
  - {name: all, amount: "100", currency: USD}
  - name: the chat
    amount: 20
    currency: USD
    period: week
    time_zone: Europe/Berlin
    tenant: chat
"""


def layers(tmp_path: Path, text: str, **flags: str) -> LoadedConfig:
    path = tmp_path / "apportion.yaml"
    path.write_text(text)
    return load_config(path, {}, flags, uid=0, host_name="node")


def loaded(tmp_path: Path, text: str, **flags: str) -> AgentConfig:
    return layers(tmp_path, text, **flags).config


def test_budgets_are_read(tmp_path: Path) -> None:
    """From the file, or as JSON from anywhere else; both mean the same."""
    config = loaded(tmp_path, GOOD)
    everything, chat = made_of(config.budgets, "USD")
    assert (everything.every, everything.chooses) == ("month", {})
    assert (chat.amount_units, chat.every, str(chat.zone)) == (20 * 10**12, "week", "Europe/Berlin")
    assert chat.chooses == {"tenant": frozenset({"chat"})}
    again = '[{"name": "all", "amount": "100", "currency": "USD"}]'
    assert loaded(tmp_path, "", budgets=again).budgets == config.budgets[:1]
    shown: Any = config.effective()["budgets"]
    assert shown[0] == {"name": "all", "amount": "100", "currency": "USD"}
    assert config_problems(layers(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: a, amount: 1.5, currency: USD}", "a float is not exact"),
        ('{name: a, amount: "-1", currency: USD}', "an amount above 0"),
        ('{name: a, amount: "1e-13", currency: USD}', "at most 12 decimals"),
        ('{name: a, amount: "NaN", currency: USD}', "a decimal number"),
        ('{name: a, amount: "Infinity", currency: USD}', "an amount above 0"),
        ('{name: a, amount: "1e999999999", currency: USD}', "an amount above 0"),
        ("{name: a, amount: x, currency: USD}", "a decimal number"),
        ("{name: a, amount: 1, currency: usd}", "should match pattern"),
        ("{name: a, amount: 1, currency: USD, period: year}", "'day', 'week' or 'month'"),
        ("{name: a, amount: 1, currency: USD, time_zone: Mars/Base}", "no such time zone"),
        ("{name: a, amount: 1, currency: USD, time_zone: ../passwd}", "no such time zone"),
        ("{name: a, amount: 1, currency: USD, team: x}", "extra inputs"),
        ('{name: "a\\nb", amount: 1, currency: USD}', "should match pattern"),
    ],
)
def test_a_wrong_budget_is_named(tmp_path: Path, entry: str, said: str) -> None:
    """With file, line and key; nothing is guessed."""
    with pytest.raises(ConfigError, match=r"(?i)budgets.*" + said) as caught:
        loaded(tmp_path, f"budgets: [{entry}]")
    assert caught.value.line == 1


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    """Another currency, no price, or one name twice stop the agent before it starts."""
    budgets = loaded(tmp_path, GOOD).budgets
    for currency, said in (("EUR", "prices are in EUR"), (None, "there is no price table")):
        with pytest.raises(ConfigError, match=said):
            made_of(budgets, currency)
    with pytest.raises(ConfigError, match="two are called 'all'"):
        made_of((*budgets, budgets[0]), "USD")
    (problem,) = config_problems(layers(tmp_path, f"prices: none\n{GOOD}"))
    assert "all is in USD, but there is no price table" in problem


def test_the_watch_asks_the_ledger(tmp_path: Path) -> None:
    """What it finds is on /metrics; without a ledger the amount stays, what was spent is absent."""
    path, clock = tmp_path / "ledger.db", ManualClock(realtime_ns=T0 + NS_PER_HOUR)
    budgets = made_of(loaded(tmp_path, GOOD).budgets, "USD")
    watch = BudgetWatch(str(path), budgets, clock)
    watch.look()
    assert "does not exist" in str(watch.complaint)
    assert values(watch) == {"amount": 100.0}
    with fleet().ledger(path):
        watch.look()
    assert watch.complaint is None
    found = values(watch)
    assert found["amount"] == 100.0
    assert found["spent"] > 0


def values(watch: BudgetWatch) -> dict[str, float]:
    """What is shown of the first budget."""
    board = SnapshotBoard()
    board.publish(replace(full_snapshot(), budgets=watch.latest))
    registry = Exposition(board, "test", strict=True).registry
    labels = {"budget": "all", "period": "month"}
    found = {
        name: registry.get_sample_value(f"apportion_budget_{name}_usd", labels)
        for name in ("amount", "spent")
    }
    return {name: value for name, value in found.items() if value is not None}
