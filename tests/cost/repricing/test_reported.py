"""After prices were applied, every figure of a report is what it would have been with them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from fractions import Fraction

import pytest
from tests.agent.pipeline.world import rate
from tests.cost.repricing.books import H100, HOUR, T0, S

from apportion.core.category import Category, Phase, SpanKind
from apportion.core.interval import Interval
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.rate import PriceTable
from apportion.cost.report import report
from apportion.cost.report_data import report_csv, report_json
from apportion.cost.report_rows import Report
from apportion.cost.report_text import report_text
from apportion.cost.repricing.apply import apply_prices
from apportion.cost.testing import Claim, LedgerBuilder

DOLLAR = 10**12


def book(metered: Fraction | None, basis: str = "list-estimate") -> Ledger:
    """An hour of a request with prefill and decode, a step, a pause, on two devices at once."""
    builder = LedgerBuilder()
    for key in (1, 2):
        builder.device(key, f"GPU-{key}")
    builder.group(3, [1, 2])
    if metered is not None:
        builder.rate(1, metered, basis=basis)
    builder.entity(1, "serve", tenant="search", model="llama")
    builder.entity(2, "train", run="r1")
    builder.ring(1)
    builder.ring(2)
    request, step = Interval(T0, T0 + 600 * S), Interval(T0 + 600 * S, T0 + 1200 * S)
    first_ns = T0 + 200 * S
    builder.span(1, 1, request, entity=1, first_token_ns=first_ns, tokens=(3_000, 1_000, 500))
    builder.span(2, 1, step, SpanKind.STEP, entity=2, step=7, training_tokens=10)
    phases = ((Phase.PREFILL, 1), (Phase.DECODE, 2))
    rate_key = None if metered is None else 1
    for device in (1, 2):
        pieces = [
            (request, Claim(Category.DIRECT, 3, 1, 1, 1, phases=phases)),
            (step, Claim(Category.DIRECT, 3, 2, 2, 1)),
            (Interval(step.end_ns, T0 + HOUR), Claim(Category.BETWEEN_STEPS, device, 2)),
            (Interval(T0 + HOUR, T0 + HOUR + S), Claim(Category.UNALLOCATED, device)),
        ]
        for interval, claim in pieces:
            builder.settle(device, interval, [claim], rate=rate_key, power_mw=300_000)
    return builder.ledger()


def figures(found: Report) -> list[object]:
    """What does not say how it came about."""
    return [
        [
            (
                row.key,
                row.total,
                row.direct,
                row.units_per_million_input_tokens,
                row.units_per_million_computed_input_tokens,
                row.units_per_million_output_tokens,
                row.units_per_step,
            )
            for row in found.rows
        ],
        found.phases,
        [(row.category, row.total) for row in found.categories],
        found.price_bases,
        [row.per_hour for row in found.rates],
        [line for line in found.warnings if "days old" not in line],
    ]


@pytest.fixture
def table() -> PriceTable:
    """36 dollars an hour, a cent a second; always, and by contract."""
    price = rate(36 * DOLLAR, H100, per_hour="36", basis="contract", as_of=date(2023, 11, 1))
    return PriceTable((price,))


@pytest.fixture(params=[None, Fraction(18 * DOLLAR), Fraction(10**13, 7)])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """The hour without a price, at half of it, and at a price that divides evenly by nothing."""
    with book(request.param) as found:
        yield found


def test_every_figure_is_at_the_new_price(ledger: Ledger, table: PriceTable) -> None:
    """Totals, phases, cost per million tokens and per step equal those metered so from the start.

    Only what is settled after the last whole hour still has the old price.
    """
    apply_prices(ledger, "node-1", table, None, None)
    found = report(ledger, T0, T0 + HOUR)
    with book(Fraction(36 * DOLLAR), basis="contract") as other:
        wanted = report(other, T0, T0 + HOUR)
    assert figures(found) == figures(wanted)
    assert found.proof.holds
    row = next(row for row in found.rows if row.key[0] == "serve")
    assert row.units_per_million_input_tokens == 4 * DOLLAR * 1000 // 3
    assert row.units_per_million_output_tokens == 8 * DOLLAR * 2000
    assert row.total.unpriced_ns == 0
    (step,) = [row.units_per_step for row in found.rows if row.steps]
    assert step == 12 * DOLLAR


def test_it_says_what_changed_and_why(ledger: Ledger, table: PriceTable) -> None:
    """Both prices are listed, the replaced one as such, and the difference has its place."""
    before = report(ledger, T0, T0 + HOUR)
    apply_prices(ledger, "node-1", table, None, None)
    found = report(ledger, T0, T0 + HOUR)
    known = before.proof.metered.units or 0
    assert found.proof.repriced.units == 72 * DOLLAR - known
    assert found.proof.metered == before.proof.metered
    assert found.replaced_rates == before.rates
    assert {row.repriced.units for row in found.devices} == {(72 * DOLLAR - known) // 2}
    text = " ".join(report_text(found).split())
    assert text.count("; replaced by a later price") == len(before.rates)
    assert text.count("+ adjustments") == 3
    assert "is an estimate" not in text
    assert "no price for" not in text
    assert '"replaced_rates"' in report_json(found)
    assert ",USD,contract," in report_csv(found)


def test_a_part_without_a_price_stays_named(table: PriceTable) -> None:
    """A table that begins inside an hour prices what follows; no figure hides the rest."""
    (price,) = table.rates
    half = PriceTable((rate(36 * DOLLAR, H100, valid_from_ns=T0 + 300 * S, per_hour="36"),))
    assert price.valid_from_ns is None
    with book(None) as ledger:
        apply_prices(ledger, "node-1", half, None, None)
        found = report(ledger, T0, T0 + HOUR)
        row = next(row for row in found.rows if row.key[0] == "serve")
        assert row.total.unpriced_ns == 2 * 300 * S
        assert row.units_per_million_output_tokens is None
        assert sum("300.0 device-seconds have quantities" in line for line in found.warnings) == 2
        (step,) = [row.units_per_step for row in found.rows if row.steps]
        assert step == 12 * DOLLAR
        apply_prices(ledger, "node-1", table, None, None)
        found = report(ledger, T0, T0 + HOUR)
        row = next(row for row in found.rows if row.key[0] == "serve")
        assert (row.total.unpriced_ns, row.total.units) == (0, 12 * DOLLAR)
