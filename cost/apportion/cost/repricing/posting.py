"""What is to be posted, collected hour by hour, and the one batch that it becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError
from apportion.cost.ledger.batch import ChargeKind, TickBatch
from apportion.cost.methods.names import Method
from apportion.cost.settlement.work import NO_RATE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apportion.cost.ledger.batch import Row
    from apportion.cost.repricing.division import Adjustment
    from apportion.cost.repricing.holders import Held
    from apportion.cost.repricing.rates import Rates
    from apportion.cost.repricing.rules import RuleAmount, RulePiece
    from apportion.cost.repricing.slices import Repricing

NEW_PRICE: Final = "new_price"
PRICE_RULE: Final = "price_rule"
"""Reasons of the lines."""
MAX_LINES: Final = 1_000_000
"""All lines are one transaction; more would not fit an agent's node beside the agent."""


class Posting:
    """Lines, and the meter's side of them; `posted_ns` (node time) dates all of it."""

    def __init__(self, posted_ns: int) -> None:
        self._posted_ns = posted_ns
        self._lines: list[Row] = []
        self._repricings: list[Row] = []
        self._rules: list[Row] = []
        self._rates: set[int] = set()

    @property
    def lines(self) -> int:
        """How many there are."""
        return len(self._lines)

    def reprice(self, rows: Iterable[Repricing]) -> None:
        """New prices of one device's time."""
        for row in rows:
            before, after = row.change
            self._rates |= {before, after}
            period = (row.start_ns, self._posted_ns, row.end_ns)
            self._repricings.append((row.device, *period, before or None, after, row.units))

    def adjust(self, one: Adjustment, held: Held) -> None:
        """What they mean for somebody.

        Raises:
            LedgerError: it is too much for one transaction.
        """
        if len(self._lines) == MAX_LINES:
            message = (
                f"applying these prices would post more than {MAX_LINES:,} lines at once: apply "
                "them to one part of the time after the other, with --since and --until"
            )
            raise LedgerError(message)
        holder, (before, after), amount = one
        whom = tuple(key or None for key in holder[2:])
        self._lines.append(
            (
                int(ChargeKind.ADJUSTMENT),
                holder.group,
                holder.category,
                *whom,
                held.start_ns,
                held.end_ns,
                self._posted_ns,
                0,
                None,
                amount.units,
                after,
                held.method,
                NEW_PRICE,
                held.incomplete,
                before or None,
                amount.priced_ns if before == NO_RATE else None,
            )
        )

    def add_rule(self, piece: RulePiece, amount: RuleAmount, group: int) -> None:
        """What a rule of a price row adds beside a device; `group` is that device alone."""
        self._rates.add(piece.rate)
        device, category, rate, *period = piece
        self._rules.append((device, int(category), *period, rate, self._posted_ns, *amount))
        nobody = (None, None, None, None)
        self._lines.append(
            (
                int(ChargeKind.ADJUSTMENT),
                group,
                int(category),
                *nobody,
                *period,
                self._posted_ns,
                0,
                None,
                amount.units,
                rate,
                int(Method.PRICE_RULE),
                PRICE_RULE,
                0,
                None,
                None,
            )
        )

    def batch(self, rates: Rates, least_line: int) -> TickBatch:
        """All of it; `least_line` is the lowest key of a line so far."""
        batch = TickBatch()
        batch.insert("rate", rates.new_rows(self._rates))
        if self._rules:
            batch.insert("method", [(int(Method.PRICE_RULE), Method.PRICE_RULE.label)])
        batch.insert("repricing", self._repricings)
        batch.insert("price_rule", self._rules)
        first_key = least_line - len(self._lines)
        batch.insert("charge", [(first_key + i, *row) for i, row in enumerate(self._lines)])
        return batch
