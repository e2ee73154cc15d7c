"""Why a request was dear: single requests, beside the mean of their like."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from tests.cost.test_report import CENT_PER_SECOND, T0, S, seconds

from apportion.agent.cli import main
from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_HOUR, UNITS_PER_CURRENCY
from apportion.cost.quantity import Quantity
from apportion.cost.serving.request_data import request_json
from apportion.cost.serving.request_report import request_report, top_requests
from apportion.cost.serving.request_text import request_text, requests_table
from apportion.cost.testing import Claim, LedgerBuilder

CENT = UNITS_PER_CURRENCY // 100


def served(*, rate: int | None = 1) -> LedgerBuilder:
    """Three requests of one model, one of another; the first second of each is its prefill."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1", simulated=True)
    builder.rate(1, CENT_PER_SECOND)
    builder.entity(1, "chat-api", tenant="acme", model="llama")
    builder.entity(2, "chat-api", tenant="other", model="llama")
    builder.entity(3, "chat-api", tenant="acme", model="large")
    builder.ring(1)
    at = 0
    for number, (entity, tokens, lasted) in enumerate(
        [(1, (100, 20, 10), 2), (2, (100, None, 20), 3), (1, (400, 0, 90), 9), (3, (9, 0, 9), 5)], 1
    ):
        interval = seconds(at, at + lasted)
        at += lasted
        builder.span(
            1,
            number,
            interval,
            SpanKind.REQUEST,
            entity=entity,
            request=f"r{number}",
            tokens=tokens,
            first_token_ns=interval.start_ns + S,
        )
        phases = ((Phase.PREFILL, 1), (Phase.DECODE, lasted - 1))
        claim = Claim(Category.DIRECT, 1, entity, 1, number, phases=phases)
        builder.settle(1, interval, [claim], rate=rate, power_mw=1_000)
    return builder


@pytest.mark.usefixtures("each_database")
def test_the_mean_is_that_of_its_like() -> None:
    """The other requests of workload and model, whoever their tenant; this one is not in it."""
    with served().ledger() as ledger:
        (row,) = request_report(ledger, "r3").requests

    assert (row.tenant, row.status, row.devices) == ("acme", SpanStatus.OK, ("GPU-1",))
    assert (row.work.total.units, row.work.phases[Phase.DECODE].units) == (9 * CENT, 8 * CENT)
    assert (row.work.computed_tokens, row.work.input_tokens, row.work.output_tokens) == (
        400,
        400,
        90,
    )
    others = row.others
    assert others is not None
    assert (others.count, others.work.total.units) == (2, 5 * CENT)
    assert (others.work.computed_tokens, others.work.output_tokens) == (180, 30)
    assert others.work.cached_tokens is None, "one of them does not say"


def test_another_hour_is_not_beside_it() -> None:
    """Nor is one that is not posted yet: it has no whole cost."""
    builder = served()
    for number, start in ((10, 7200), (11, 7300)):
        interval = seconds(start, start + 1)
        builder.span(1, number, interval, SpanKind.REQUEST, entity=1, request=f"r{number}")
        claim = Claim(Category.DIRECT, 1, 1, 1, number, open=number == 11)
        builder.settle(1, interval, [claim], rate=1, power_mw=1_000)
    with builder.ledger() as ledger:
        alone = request_report(ledger, "r10")
        running = request_report(ledger, "r11")

    assert alone.requests[0].others is None
    assert "No other request" in request_text(alone)
    (row,) = running.requests
    assert (row.work.total, row.running.units) == (Quantity(), CENT)
    assert row.others is not None
    assert row.others.count == 1
    assert "not posted yet" in request_text(running)


def test_what_was_moved_is_its_cost() -> None:
    """A request costs what its lines add up to, those that came later included."""
    builder = served()
    one, other = (Claim(Category.DIRECT, 1, 1, 1, number) for number in (1, 3))
    builder.move(seconds(5, 6), other, one, (S, 1_000, CENT), rate=1)
    with builder.ledger() as ledger:
        (row,) = request_report(ledger, "r3").requests

    assert row.work.total.units == 8 * CENT
    assert row.work.phases[Phase.NONE].units == -CENT


@pytest.mark.usefixtures("each_database")
def test_the_costliest() -> None:
    """Most money first; most time where nothing has a price; only what ended in the period."""
    with served().ledger() as ledger:
        found = top_requests(ledger, 2)
        later = top_requests(ledger, 5, T0 + NS_PER_HOUR)
    with served(rate=None).ledger() as ledger:
        unpriced = top_requests(ledger, 9)

    assert [row.request_id for row in found.requests] == ["r3", "r4"]
    assert later.requests == ()
    assert [row.request_id for row in unpriced.requests] == ["r3", "r4", "r2", "r1"]
    assert unpriced.currency is None
    assert "device-s" in request_text(unpriced)


def test_the_text(repository: Path) -> None:
    """What people see, to the character: golden_request.txt beside this test, and in the docs."""
    with served().ledger() as ledger:
        text = request_text(request_report(ledger, "r3"))

    expected = repository / "tests" / "cost" / "serving" / "golden_request.txt"
    assert text == expected.read_text()
    assert text in (repository / "docs" / "requests.md").read_text()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One request or the costliest, as text, JSON or CSV; an id that is none's is an error."""
    path = tmp_path / "ledger.db"
    served().ledger(path).close()
    ask = ["report", "--ledger", str(path)]

    assert main([*ask, "--top-requests", "1"]) == 0
    assert "r3" in capsys.readouterr().out
    assert main([*ask, "--request", "r3", "--format", "json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["requests"]
    assert document["phases"]["decode"]["cost"] == "0.080000000000"
    assert document["others"]["count"] == 2
    assert main([*ask, "--request", "r3", "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["phase"] for line in lines] == ["prefill", "decode"]
    assert sum(int(line["units"]) for line in lines) == document["total"]["units"]
    assert main([*ask, "--request", "nobody"]) == 2
    assert "no request 'nobody'" in capsys.readouterr().err
    assert main([*ask, "--request", "r3", "--run", "r"]) == 2
    assert main([*ask, "--request", "r3", "--as-of", "1h"]) == 2


@pytest.mark.parametrize("basis", ["contract", "list-estimate"])
def test_estimates_are_called_so(basis: str) -> None:
    """A price that nobody chose is named, in the text and in the data."""
    builder = served(rate=None)
    builder.rate(2, CENT_PER_SECOND, basis=basis)
    interval = seconds(20, 21)
    builder.span(1, 9, interval, SpanKind.REQUEST, entity=1, request="r9")
    builder.settle(1, interval, [Claim(Category.DIRECT, 1, 1, 1, 9)], rate=2)
    with builder.ledger() as ledger:
        one = request_report(ledger, "r9")
        most = top_requests(ledger, 1)

    is_estimate = basis == "list-estimate"
    assert [one.estimated, most.estimated] == [is_estimate] * 2
    assert json.loads(request_json(one))["estimated"] is is_estimate
    for text in (request_text(one), requests_table(most)):
        assert ("estimates" in text) is is_estimate


def test_currencies_are_not_added() -> None:
    """A request on devices that are paid in two makes no sum."""
    builder = LedgerBuilder()
    builder.ring(1)
    builder.entity(1, "server")
    builder.span(1, 1, seconds(0, 2), SpanKind.REQUEST, entity=1, request="r1")
    for key, currency in ((1, "USD"), (2, "EUR")):
        builder.device(key, f"GPU-{key}")
        builder.rate(key, CENT_PER_SECOND, currency=currency)
        builder.settle(key, seconds(0, 2), [Claim(Category.DIRECT, key, 1, 1, 1)], rate=key)
    with builder.ledger() as ledger, pytest.raises(LedgerError, match="EUR, USD"):
        request_report(ledger, "r1")
