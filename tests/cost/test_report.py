"""Reports: the figures people act on, proved against both sides of the book."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Generator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import ClauseElement, Connection, event
from sqlalchemy.dialects import postgresql
from tests.cost.shipped import roller

from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerError
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost import testing
from apportion.cost.ledger.batch import UNADJUSTED, TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.period import WallTime
from apportion.cost.report import report
from apportion.cost.report_data import report_csv, report_json
from apportion.cost.report_rows import EntityRow, Report
from apportion.cost.report_text import decimal_amount, report_text
from apportion.cost.testing import Claim, LedgerBuilder

pytestmark = pytest.mark.usefixtures("each_database")

S = NS_PER_SECOND
HOUR = NS_PER_HOUR
T0 = 472_222 * HOUR  # 2023-11-14 22:00:00 UTC
CENT_PER_SECOND = 36 * UNITS_PER_CURRENCY  # in units per hour

PREFILL_DECODE = ((Phase.PREFILL, 1), (Phase.DECODE, 4))


LARGE = {"charge", "span", "span_cost", "still_running"}
"""What grows with the number of spans, in a query's plan."""


def seconds(start: float, end: float) -> Interval:
    return Interval(T0 + round(start * S), T0 + round(end * S))


def fleet(*, simulated: bool = False) -> LedgerBuilder:
    """A server on GPU-1 with two tenants, a trainer on GPU-2 that dies in its third step."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1", simulated=simulated)
    builder.device(2, "GPU-2", simulated=simulated)
    builder.rate(1, CENT_PER_SECOND, basis="list-estimate")
    builder.entity(1, "llama-serve", tenant="chat", model="llama-3.1-8b")
    builder.entity(2, "llama-serve", tenant="search", model="llama-3.1-8b")
    builder.entity(3, "llama-serve")
    builder.entity(4, "pretrain", run="run-7")
    builder.ring(1)
    builder.ring(2)
    _serve(builder)
    _train(builder)
    return builder


def _serve(builder: LedgerBuilder) -> None:
    tokens = {1: (1_000, None, 200), 2: (500, 100, 50), 3: (300, None, None)}
    for number, (entity, first) in enumerate([(1, 1), (2, 6), (2, None)], 1):
        interval = seconds(5 * number - 5, 5 * number)
        builder.span(
            1,
            number,
            interval,
            entity=entity,
            first_token_ns=None if first is None else T0 + first * S,
            tokens=tokens[number],
        )
        phases = PREFILL_DECODE if first is not None else ((Phase.NONE, 1),)
        claim = Claim(Category.DIRECT, 1, entity, 1, number, phases=phases, incomplete=number == 3)
        builder.settle(1, interval, [claim], rate=1, power_mw=600_000)
    idle = Claim(Category.ALLOCATED_IDLE, 1, 3)
    builder.settle(1, seconds(15, 25), [idle], rate=1, power_mw=90_000)
    opened = Claim(Category.DIRECT, 1, 1, 1, 4, open=True)
    builder.settle(1, seconds(25, 30), [opened], rate=1, power_mw=600_000)


def _train(builder: LedgerBuilder) -> None:
    between = Claim(Category.BETWEEN_STEPS, 2, 4)
    for step in (1, 2, 3):
        interval = seconds(10 * step - 10, 10 * step - 2)
        status = SpanStatus.LOST if step == 3 else SpanStatus.OK
        builder.span(
            2,
            step,
            interval,
            SpanKind.STEP,
            entity=4,
            status=status,
            step=step,
            training_tokens=None if step == 3 else 4_096,
        )
        phases = ((Phase.FORWARD, 1), (Phase.BACKWARD, 2), (Phase.OPTIMIZER, 1))
        claim = Claim(Category.DIRECT, 2, 4, 2, step, phases=phases)
        builder.settle(2, interval, [claim], power_mw=None, rate=1)
        builder.settle(2, seconds(10 * step - 2, 10 * step), [between], rate=1)
        if step == 3:
            for phase, share in phases:
                part = claim._replace(phases=((phase, 1),))
                amounts = (2 * S * share, None, 2 * UNITS_PER_CURRENCY // 100 * share)
                builder.move(interval, part, part._replace(category=Category.LOST), amounts)


def rows_by(found: Report) -> dict[tuple[str | None, ...], EntityRow]:
    return {row.key: row for row in found.rows}


def test_a_tenant_called_like_nobody() -> None:
    """A name that is a dash, or empty, is told apart from none."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    for key, tenant in enumerate(("-", "", None), 1):
        builder.entity(key, "serve", tenant=tenant)
        claim = Claim(Category.ALLOCATED_IDLE, 1, key)
        builder.settle(1, seconds(key, key + 1), [claim])
    with builder.ledger() as ledger:
        lines = report_text(report(ledger, by=("tenant",))).splitlines()
    shown = {line.split()[0] for line in lines if line.startswith("  ") and line.split()}
    assert {"'-'", "''", "-"} <= shown


def test_golden_text(repository: Path) -> None:
    """What people see, to the character: golden_report.txt beside this test."""
    clock = ManualClock(realtime_ns=T0 + HOUR)
    with fleet(simulated=True).ledger(clock=clock) as ledger:
        text = report_text(report(ledger)).replace(ledger.name, "sqlite://")
    expected = (repository / "tests" / "cost" / "golden_report.txt").read_text()
    assert text == expected
    assert max(len(line) for line in text.splitlines()) <= 100


def test_a_step_that_was_rolled_back_later_has_its_price() -> None:
    """A restart moves its cost to `lost`; what a step costs is not halved by that."""
    builder = fleet()
    before = rows_by(report(builder.ledger(), by=("run",)))["run-7",]
    moved = fleet()
    part = Claim(Category.DIRECT, 2, 4, 2, 2)
    amounts = (8 * S, None, 8 * UNITS_PER_CURRENCY // 100)
    moved.move(seconds(10, 18), part, part._replace(category=Category.LOST), amounts)
    after = rows_by(report(moved.ledger(), by=("run",)))["run-7",]
    assert (after.steps, after.units_per_step) == (before.steps, before.units_per_step)
    assert after.direct.device_ns == before.direct.device_ns - 8 * S
    assert after.total == before.total


def test_cost_per_token() -> None:
    """Input cost is prefill, output cost the rest, over the tokens of the same requests."""
    with fleet().ledger() as ledger:
        rows = rows_by(report(ledger))
    chat = rows["llama-serve", "chat", "llama-3.1-8b"]
    cent = UNITS_PER_CURRENCY // 100
    assert chat.direct.units == 10 * cent  # five seconds posted, five still open
    assert chat.open_units == 5 * cent
    assert chat.units_per_million_input_tokens == cent * 1_000
    assert chat.units_per_million_output_tokens == 4 * cent * 5_000
    search = rows["llama-serve", "search", "llama-3.1-8b"]
    assert search.requests == 2
    assert (search.input_tokens, search.cached_input_tokens, search.output_tokens) == (800, 100, 50)
    assert search.units_per_million_input_tokens == cent * 2_000
    assert search.units_per_million_computed_input_tokens == cent * 2_500
    assert search.units_per_million_output_tokens == 4 * cent * 20_000
    assert search.incomplete_units == 5 * cent


def test_no_first_token_has_no_token_price() -> None:
    """Without a first token nothing says which part was input: absent, never 0."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, CENT_PER_SECOND)
    builder.entity(1, "w")
    builder.ring(1)
    builder.span(1, 1, seconds(0, 5), entity=1, tokens=(10, None, 5))
    builder.settle(1, seconds(0, 5), [Claim(Category.DIRECT, 1, 1, 1, 1)], rate=1)
    with builder.ledger() as ledger:
        (row,) = report(ledger).rows
    assert row.units_per_million_input_tokens is None
    assert row.units_per_million_output_tokens is None
    assert row.total.units == 5 * UNITS_PER_CURRENCY // 100


def test_cost_per_step_leaves_lost_steps_out() -> None:
    """A lost step's cost is lost, not a step's; the others cost what they took."""
    with fleet().ledger() as ledger:
        found = report(ledger, by=["workload", "run"])
    row = rows_by(found)["pretrain", "run-7"]
    assert row.steps == 2
    assert row.units_per_step == 8 * UNITS_PER_CURRENCY // 100
    assert row.training_tokens == 8_192
    assert row.training_tokens_per_second == 512
    lost = next(row for row in found.categories if row.category is Category.LOST)
    assert lost.total.units == 8 * UNITS_PER_CURRENCY // 100
    assert lost.posted.units is None
    direct = next(row for row in found.categories if row.category is Category.DIRECT)
    assert direct.moved.units == -8 * UNITS_PER_CURRENCY // 100
    assert found.proof.moved.units == 0


def test_ranks_of_a_step_are_one_step() -> None:
    """Cost per step is over all ranks: the same step of four ranks counts once."""
    builder = LedgerBuilder()
    builder.rate(1, CENT_PER_SECOND)
    builder.entity(1, "train", run="r")
    for rank in (1, 2, 3, 4):
        builder.device(rank, f"GPU-{rank}")
        builder.ring(rank)
        for step in (1, 2):
            interval = seconds(10 * step, 10 * step + 5)
            builder.span(
                rank, step, interval, SpanKind.STEP, entity=1, step=step, training_tokens=100
            )
            claim = Claim(Category.DIRECT, rank, 1, rank, step)
            builder.settle(rank, interval, [claim], rate=1)
            if step == 1:
                idle = Claim(Category.BETWEEN_STEPS, rank, 1)
                builder.settle(rank, seconds(15, 20), [idle], rate=1)
    with builder.ledger() as ledger:
        (row,) = report(ledger).rows
    assert row.steps == 2
    assert row.units_per_step == 4 * 5 * UNITS_PER_CURRENCY // 100
    assert row.training_tokens == 800
    assert row.training_tokens_per_second == 80


def test_unpriced_time_has_quantities_and_no_amount() -> None:
    """A device without a rate costs NULL, never 0, and the report says so and what to do."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.entity(1, "w")
    builder.ring(1)
    builder.span(1, 1, seconds(0, 5), entity=1, first_token_ns=T0 + S, tokens=(10, None, 5))
    claim = Claim(Category.DIRECT, 1, 1, 1, 1, phases=PREFILL_DECODE)
    builder.settle(1, seconds(0, 5), [claim], power_mw=1_000)
    with builder.ledger() as ledger:
        found = report(ledger)
    (row,) = found.rows
    assert row.total.units is None
    assert row.total.unpriced_ns == 5 * S
    assert row.total.energy_mj == 5_000
    assert row.units_per_million_input_tokens is None
    assert found.currency is None
    assert found.proof.holds
    assert any("no price for NVIDIA H100 80GB HBM3 (GPU-1): 5.0" in text for text in found.warnings)
    assert "no price is known" in report_text(found)


def test_old_and_estimated_prices_warn() -> None:
    """Every price shows its source and age; an estimate or an old one is said out loud."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, CENT_PER_SECOND, basis="list-estimate", as_of="2023-01-02")
    builder.settle(1, seconds(0, 5), [Claim(Category.UNALLOCATED, 1)], rate=1)
    with builder.ledger(clock=ManualClock(realtime_ns=T0)) as ledger:
        found = report(ledger)
    assert any("is an estimate (source: a test)" in text for text in found.warnings)
    assert any("is 316 days old (as of 2023-01-02)" in text for text in found.warnings)
    assert "list-estimate, as of 2023-01-02, from a test" in report_text(found)


def priced(*bases: str, as_of: str = "2023-11-01") -> Report:
    """A report on one device for each basis of a price."""
    builder = LedgerBuilder()
    for key, basis in enumerate(bases, 1):
        builder.device(key, f"GPU-{key}", f"NVIDIA {key}")
        builder.rate(key, CENT_PER_SECOND, name=f"NVIDIA {key}", basis=basis, as_of=as_of)
        builder.settle(key, seconds(0, 5), [Claim(Category.UNALLOCATED, key)], rate=key)
    with builder.ledger(clock=ManualClock(realtime_ns=T0)) as ledger:
        return report(ledger)


def test_what_rests_on_an_estimate_is_marked_everywhere() -> None:
    """At the currency of every amount and in a line at the top; in JSON; in each line of CSV."""
    found = priced("list-estimate")
    text = report_text(found)
    assert "USD" in text
    assert "USD " not in text.replace("USD per hour", "").replace("USD*", "")
    assert "  *              estimated: rests on assumed prices of NVIDIA 1 (see Prices)" in text
    document = json.loads(report_json(found))
    assert (document["estimated"], document["price_bases"]) == (True, ["list-estimate"])
    (row,) = csv.DictReader(io.StringIO(report_csv(found)))
    assert (row["currency"], row["price_bases"]) == ("USD", "list-estimate")


def test_a_part_of_estimates_is_called_a_part() -> None:
    """Which devices' prices are assumed, where others are known."""
    found = priced("list-estimate", "contract")
    assert "estimated: rests in part on assumed prices of NVIDIA 1 (see" in report_text(found)
    (row,) = csv.DictReader(io.StringIO(report_csv(found)))
    assert row["price_bases"] == "contract+list-estimate"


def test_prices_that_are_known_are_not_marked() -> None:
    """No star without a reason."""
    found = priced("contract", "list")
    # The first line names the ledger, which may have a password to hide.
    assert "*" not in report_text(found).partition("\n")[2]
    assert json.loads(report_json(found))["estimated"] is False


def test_a_price_of_the_future_warns() -> None:
    """Its date is a slip, and its age unknown."""
    found = priced("contract", as_of="2023-12-24")
    assert any("is dated in the future (2023-12-24)" in text for text in found.warnings)


def test_unused_prices_are_not_shown() -> None:
    """A report names the rates that its own hours were metered at."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, CENT_PER_SECOND)
    builder.rate(2, CENT_PER_SECOND, name="another", as_of="2001-01-01")
    builder.settle(1, seconds(0, 5), [Claim(Category.UNALLOCATED, 1)], rate=1)
    with builder.ledger(clock=ManualClock(realtime_ns=T0)) as ledger:
        found = report(ledger)
    assert [row.device_name for row in found.rates] == ["NVIDIA H100 80GB HBM3"]
    assert found.warnings == ()


def test_spans_without_a_device_are_counted() -> None:
    """Requests of an unbound ring appear with their tokens and no cost, and dilute no price."""
    builder = fleet()
    builder.ring(9)
    builder.span(
        9, 1, seconds(0, 1), entity=1, first_token_ns=T0 + S // 2, tokens=(10**6, None, 10**6)
    )
    with builder.ledger() as ledger:
        found = report(ledger)
    row = rows_by(found)["llama-serve", "chat", "llama-3.1-8b"]
    assert row.requests == 2
    assert row.input_tokens == 1_001_000
    assert row.units_per_million_input_tokens == UNITS_PER_CURRENCY // 100 * 1_000
    assert any(text.startswith("1 spans have no cost") for text in found.warnings)


@pytest.mark.parametrize(
    ("status", "tokens", "warned"),
    [
        (SpanStatus.ERROR, None, False),
        (SpanStatus.CANCELLED, None, False),
        (SpanStatus.ERROR, 7, True),
        (SpanStatus.OK, None, True),
    ],
)
def test_refused_requests_ran_nowhere(
    status: SpanStatus, tokens: int | None, *, warned: bool
) -> None:
    """What no device is known to have worked for has no cost, and nothing is missing of it."""
    builder = fleet()
    builder.ring(9)
    builder.span(9, 1, seconds(0, 1), entity=1, status=status, tokens=(tokens, None, None))
    with builder.ledger() as ledger:
        found = report(ledger)
    assert rows_by(found)["llama-serve", "chat", "llama-3.1-8b"].requests == 2
    assert warned == any(text.startswith("1 spans have no cost") for text in found.warnings)


def three_hours() -> LedgerBuilder:
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, CENT_PER_SECOND)
    builder.entity(1, "w")
    builder.ring(1)
    builder.span(1, 1, Interval(T0, T0 + 2 * HOUR + 5 * S), entity=1)
    claim = Claim(Category.DIRECT, 1, 1, 1, 1)
    builder.settle(1, Interval(T0, T0 + 2 * HOUR + 5 * S), [claim], rate=1)
    return builder


def test_period_is_whole_hours() -> None:
    """Lines lie in one hour each: a report widens to whole hours and adds up exactly there."""
    with three_hours().ledger() as ledger:
        second = report(ledger, T0 + HOUR + 5, T0 + 2 * HOUR - 5)
        last = report(ledger, T0 + 2 * HOUR)
        whole = report(ledger)
        none = report(ledger, T0 + 7 * HOUR)
    assert (second.start_unix_ns, second.end_unix_ns) == (T0 + HOUR, T0 + 2 * HOUR)
    assert second.rows[0].total.units == CENT_PER_SECOND
    assert second.rows[0].requests == 0
    assert last.rows[0].requests == 1
    assert last.rows[0].total.units == 5 * UNITS_PER_CURRENCY // 100
    assert whole.rows[0].total.device_ns == 2 * HOUR + 5 * S
    assert all(found.proof.holds for found in (second, last, whole, none))
    assert none.rows == ()
    assert "Nothing is settled in this period." in report_text(none)


@pytest.mark.parametrize("offset_ns", [40_000_000, -40_000_000, -T0 + 5 * HOUR])
def test_period_follows_the_wall_clock(offset_ns: int) -> None:
    """Hours are asked for in wall time and found in node time, however far apart they are."""
    builder = three_hours()
    builder.batch.insert("wall_offset", [(0, offset_ns)])
    with builder.ledger() as ledger:
        asked = T0 + offset_ns - offset_ns % HOUR if abs(offset_ns) > HOUR else T0
        found = report(ledger, asked + HOUR, asked + 2 * HOUR)
    assert found.rows[0].total.device_ns == HOUR
    assert found.settled_until_unix_ns == T0 + 2 * HOUR + 5 * S + offset_ns


def test_wall_time_is_dated() -> None:
    """Each instant is shown by the offset that held then."""
    wall = WallTime({1: [(100, 1_000), (200, 3_000)], 2: []})
    assert [wall.unix(1, node_ns) for node_ns in (50, 150, 250)] == [1_050, 1_150, 3_250]
    assert [wall.node(1, unix_ns) for unix_ns in (1_050, 1_150, 3_250)] == [50, 150, 250]
    assert wall.unix(2, 7) == wall.node(2, 7) == wall.unix(9, 7) == 7


def test_open_and_adjusted_amounts_are_in_the_total() -> None:
    """What is not posted yet counts, and later price changes are a line of the proof."""
    with three_hours().ledger() as ledger:
        adjustment = (-1, 3, 1, 1, None, 1, 1, 1, T0, T0 + 1, T0 + 5, 0, None, 123, 1, 1, None, 0)
        repricing = (1, T0, T0 + 5, T0 + 1, 1, 1, 123)
        ledger.commit(
            TickBatch(inserted={"charge": [(*adjustment, 1, None)], "repricing": [repricing]})
        )
        found = report(ledger)
    assert found.proof.adjusted.units == 123
    assert found.proof.holds
    assert found.rows[0].total.units == (found.proof.metered.units or 0) + 123
    text = report_text(found)
    by_prices = "+ adjustments 0.000000000123 by prices and their rules"
    assert f"    {by_prices}\n    = in lines 0.000000000123 USD" in text


def test_a_wrong_book_does_not_prove() -> None:
    """The proof line is computed, not printed: one missing unit shows."""
    with three_hours().ledger() as ledger:
        extra = (99, 1, 1, 1, None, 1, 1, 1, T0, T0 + 1, T0 + 5, 0, None, 1, 1, 1, None, 0)
        ledger.commit(TickBatch(inserted={"charge": [(*extra, *UNADJUSTED)]}))
        found = report(ledger)
    assert not found.proof.holds
    assert "DIFFERENT: run `apportion audit`" in report_text(found)


def test_many_agents_in_one_ledger(tmp_path: Path) -> None:
    """A shared ledger adds up its agents; a device that two of them metered is named."""
    path = tmp_path / "ledger.db"
    with three_hours().ledger(path) as first:
        other = Ledger.open(
            path, node="node-2", cluster=None, currency=None, version="0", clock=first.clock
        )
        with other:
            builder = three_hours()
            builder.batch.inserted.pop("method")
            builder.commit(other)
            found = report(other, by=["node", "workload"])
    assert [row.key for row in found.rows] == [("node-1", "w"), ("node-2", "w")]
    assert found.proof.holds
    assert "GPU-1 was metered by node-1 and node-2: its cost is in here twice" in found.warnings
    assert "node-2/GPU-1" in report_text(found)


def test_currencies_are_never_added() -> None:
    """One report has one currency."""
    builder = LedgerBuilder()
    for key, currency in ((1, "USD"), (2, "KRW")):
        builder.device(key, f"GPU-{key}")
        builder.rate(key, CENT_PER_SECOND, currency=currency)
        builder.settle(key, seconds(0, 5), [Claim(Category.UNALLOCATED, key)], rate=key)
    with builder.ledger() as ledger, pytest.raises(LedgerError, match="KRW, USD"):
        report(ledger)


def test_unknown_dimension_is_named() -> None:
    """A typing error lists what there is."""
    with testing.memory_ledger() as ledger, pytest.raises(LedgerError, match=r"'colour'.*workload"):
        report(ledger, by=["colour"])


def test_empty_ledger_has_an_empty_report() -> None:
    """Before the first settlement there is nothing, and it says so."""
    with testing.memory_ledger() as ledger:
        found = report(ledger)
    assert found.rows == ()
    assert found.proof.holds
    assert "settled until  nothing is, in this period" in report_text(found)
    assert json.loads(report_json(found))["rows"] == []
    assert len(report_csv(found).splitlines()) == 1


def test_names_cannot_steer_a_terminal_or_a_spreadsheet() -> None:
    """Workload names come from the workloads: no escape sequence and no formula gets through."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.entity(1, "\x1b[31mred\n", tenant="=1+1", model="x" * 300)
    builder.settle(1, seconds(0, 5), [Claim(Category.ALLOCATED_IDLE, 1, 1)])
    with builder.ledger() as ledger:
        found = report(ledger)
    text = report_text(found)
    assert "\x1b" not in text
    assert "?[31mred?" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    (row,) = csv.DictReader(io.StringIO(report_csv(found)))
    assert row["tenant"] == "'=1+1"


def test_json_has_every_unit() -> None:
    """Programs get whole units and exact decimals; nothing is rounded on the way."""
    with fleet().ledger() as ledger:
        found = report(ledger)
    document = json.loads(report_json(found))
    assert document["simulated"] is False
    assert document["proof"]["holds"] is True
    units = sum(row["total"]["units"] for row in document["rows"])
    assert units == document["proof"]["metered"]["units"] == 60 * UNITS_PER_CURRENCY // 100
    assert document["proof"]["metered"]["cost"] == "0.600000000000"
    phases = {(row["workload"], row["phase"]): row["total"]["units"] for row in document["phases"]}
    assert phases["pretrain", "backward"] == 8 * UNITS_PER_CURRENCY // 100
    assert document["devices"][0]["categories"]["allocated_idle"]["device_ns"] == 10 * S
    assert document["rates"][0]["basis"] == "list-estimate"


def test_csv_has_the_same_rows() -> None:
    """A spreadsheet gets one rectangular table."""
    with fleet().ledger() as ledger:
        found = report(ledger)
    table = list(csv.DictReader(io.StringIO(report_csv(found))))
    assert [row["workload"] for row in table] == [row.key[0] for row in found.rows]
    chat = table[0]
    assert (chat["tenant"], chat["currency"], chat["cost"]) == ("chat", "USD", "0.100000000000")
    assert chat["training_tokens"] == ""


def test_amounts_are_exact_decimals() -> None:
    """Neither rounding nor exponents, for a single unit and for a fleet's year in won."""
    assert decimal_amount(1, 12) == "0.000000000001"
    assert decimal_amount(-1, 6) == "-0.000000"
    assert decimal_amount(2_500_000, 6) == "0.000002"
    fleet_year = 1_314_000_000_000 * UNITS_PER_CURRENCY + 1
    assert decimal_amount(fleet_year, 12) == "1314000000000.000000000001"


def test_a_dear_year_does_not_overflow() -> None:
    """Sums beyond 64 bits come out exact: a fleet's hours in won, and their sum in the proof."""
    won = 15_000 * UNITS_PER_CURRENCY
    builder = LedgerBuilder()
    builder.rate(1, 600 * won, currency="KRW")
    for key in range(1, 11):
        builder.device(key, f"GPU-{key}")
        interval = Interval(T0, T0 + 3 * HOUR)
        builder.settle(key, interval, [Claim(Category.UNALLOCATED, key)], rate=1)
    with builder.ledger() as ledger:
        found = report(ledger)
    assert found.proof.metered.units == 30 * 600 * won > 1 << 63
    assert found.proof.holds
    assert "270000000.000000000000 KRW" in report_text(found)


@contextmanager
def asked(ledger: Ledger) -> Generator[list[ClauseElement]]:
    """Every statement that is executed meanwhile."""
    found: list[ClauseElement] = []

    def seen(_connection: Connection, element: ClauseElement, *_rest: object) -> None:
        found.append(element)

    event.listen(ledger._engine, "before_execute", seen)
    try:
        yield found
    finally:
        event.remove(ledger._engine, "before_execute", seen)


def test_statements_compile_for_postgresql() -> None:
    """Reports run on a shared PostgreSQL: no statement has SQLite's own words in it."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    with fleet().ledger() as ledger, asked(ledger) as statements:
        report(ledger, T0, T0 + HOUR, by=["workload", "day", "rate", "phase"])
        report(ledger, T0, T0 + HOUR, by=["tenant", "hour"])
    assert len(statements) > 40
    for statement in statements:
        text = str(statement.compile(dialect=dialect))
        assert "SELECT" in text
        assert "||" not in text


@settings(max_examples=settings().max_examples // 8)
@given(
    weights=st.lists(st.integers(1, 1_000), min_size=1, max_size=8),
    rate=st.fractions(0, 10**15, max_denominator=1_000),
    power_mw=st.integers(0, 10**6),
    length_ns=st.integers(1, 2 * HOUR),
    opened=st.sets(st.integers(0, 7)),
)
def test_totals_are_the_meter(
    weights: list[int], rate: Fraction, power_mw: int, length_ns: int, opened: set[int]
) -> None:
    """Rows, phases, categories and devices each add up to the meter, posted or not."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, rate)
    claims: list[Claim] = []
    for index, weight in enumerate(weights):
        builder.entity(index + 1, f"w{index % 3}", tenant=f"t{index}")
        is_open = index in opened
        claims.append(Claim(Category.DIRECT, 1, index + 1, weight=weight, open=is_open))
    builder.settle(1, Interval(T0, T0 + length_ns), claims, rate=1, power_mw=power_mw)
    with builder.ledger() as ledger:
        found = report(ledger)
    meter = found.proof.metered
    assert meter.units == int(rate * length_ns / HOUR) or length_ns > HOUR
    assert meter.device_ns == length_ns
    for totals in (
        [row.total for row in found.rows],
        [row.total for row in found.phases],
        [row.total for row in found.categories],
        [row.metered for row in found.devices],
    ):
        assert sum(total.units or 0 for total in totals) == meter.units
        assert sum(total.energy_mj or 0 for total in totals) == meter.energy_mj
        assert sum(total.device_ns for total in totals) == length_ns
    assert found.proof.holds


def check_plan(connection: Connection, text: str) -> None:
    """Nothing large is gone through once for each row of something else."""
    if connection.dialect.name == "postgresql":
        plan = connection.exec_driver_sql(f"EXPLAIN {text}").scalars().all()
        # Its tables were never analysed, as after a copy. An inner join that has nothing
        # left to compare, as with the one agent, may loop.
        outer = ("Merge", "Nested Loop Left", "Nested Loop Anti", "Nested Loop Semi")
        assert not [line for line in plan if any(word in line for word in outer)]
        return
    loops: dict[int, list[str]] = {}
    for _, parent, _, line in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"):
        if line.startswith(("SCAN ", "SEARCH ")):
            loops.setdefault(parent, []).append(line)
    for nested in loops.values():
        large = [line for line in nested if line.split()[1] in LARGE]
        assert all("USING AUTOMATIC" in line for line in large[1:]), nested


@pytest.mark.parametrize("rolled", [False, True])
def test_no_plan_is_quadratic(*, rolled: bool) -> None:
    """Lines and spans are joined by an index of their own, never by all rows of an agent."""
    with fleet().ledger() as ledger:
        if rolled:
            roller(ledger).run()
        with asked(ledger) as statements:
            report(ledger, T0, T0 + HOUR, ["workload", "tenant"])
        with ledger.read() as connection:
            for statement in statements:
                text = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
                check_plan(connection, text)
