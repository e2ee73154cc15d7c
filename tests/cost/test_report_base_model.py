"""Adapters are models of their own, and are rolled up to the models below them."""

from __future__ import annotations

from fractions import Fraction

from apportion.core.category import Category
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost.report import report
from apportion.cost.testing import Claim, LedgerBuilder

T0 = 472_222 * NS_PER_HOUR


def test_by_model_and_by_base_model() -> None:
    """A model is its own base; what has no model has none; the sum is the same."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, Fraction(3600 * UNITS_PER_CURRENCY))
    builder.entity(1, "serve", model="llama")
    builder.entity(2, "serve", model="sql-lora", base_model="llama")
    builder.entity(3, "serve", model="chat-lora", base_model="llama")
    builder.entity(4, "serve", model="qwen")
    for second, entity in enumerate((1, 2, 3, 4, 0)):
        interval = Interval(T0 + second * NS_PER_SECOND, T0 + (second + 1) * NS_PER_SECOND)
        builder.settle(1, interval, [Claim(Category.DIRECT, 1, entity)], rate=1)

    def cost(*by: str) -> dict[tuple[str | None, ...], int]:
        found = report(ledger, by=by)
        assert found.proof.holds
        return {row.key: (row.total.units or 0) // UNITS_PER_CURRENCY for row in found.rows}

    with builder.ledger() as ledger:
        assert cost("base_model") == {("llama",): 3, ("qwen",): 1, (None,): 1}
        assert cost("base_model", "model") == {
            ("llama", "llama"): 1,
            ("llama", "sql-lora"): 1,
            ("llama", "chat-lora"): 1,
            ("qwen", "qwen"): 1,
            (None, None): 1,
        }
