"""Cost by what programs said of themselves: `--by tag:team`."""

from __future__ import annotations

from fractions import Fraction

import pytest

from apportion.core.category import Category
from apportion.core.errors import LedgerError
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost.report import report
from apportion.cost.testing import Claim, LedgerBuilder

pytestmark = pytest.mark.usefixtures("each_database")

T0 = 472_222 * NS_PER_HOUR
SERVE = {"workload": "serve", "run": "r", "attempt": "1"}


def book() -> LedgerBuilder:
    """Who has a second each: two tenants of a server, two attempts of a trainer, nobody."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, Fraction(3600 * UNITS_PER_CURRENCY))
    builder.entity(1, "serve", run="r", attempt="1", tenant="chat")
    builder.entity(2, "serve", run="r", attempt="1", tenant="search")
    builder.entity(3, "train", run="run-7", attempt="1")
    builder.entity(4, "train", run="run-7", attempt="2")
    builder.ring(1, said={**SERVE, "tags": {"team": "search", "project": "ads"}})
    builder.ring(2, said={"workload": "train", "run": "run-7", "attempt": "1", "tags": {}})
    builder.ring(
        3, said={"workload": "train", "run": "run-7", "attempt": "2", "tags": {"team": "nlp"}}
    )
    for second, entity in enumerate((1, 2, 3, 4, 0)):
        interval = Interval(T0 + second * NS_PER_SECOND, T0 + (second + 1) * NS_PER_SECOND)
        builder.settle(1, interval, [Claim(Category.ALLOCATED_IDLE, 1, entity)], rate=1)
    return builder


def cost(*by: str, builder: LedgerBuilder | None = None) -> dict[tuple[str | None, ...], int]:
    """Whole units of the currency by key; everything is in it."""
    with (builder or book()).ledger() as ledger:
        found = report(ledger, by=by)
    assert found.proof.holds
    return {row.key: (row.total.units or 0) // UNITS_PER_CURRENCY for row in found.rows}


def test_by_a_tag() -> None:
    """Tenants of one server share its tags; who said none is nobody, and the sum is the meter."""
    assert cost("tag:team") == {("nlp",): 1, ("search",): 2, (None,): 2}


def test_by_two_tags_and_a_name() -> None:
    """A tag stands beside any other dimension, in the order that was asked for."""
    assert cost("tag:project", "workload", "tag:team") == {
        ("ads", "serve", "search"): 2,
        (None, "train", "nlp"): 1,
        (None, "train", None): 1,
        (None, None, None): 1,
    }


def test_the_last_process_has_the_word() -> None:
    """A tag that was wrong is put right by a process of the same attempt that says it again."""
    builder = book()
    builder.ring(4, said={**SERVE, "tags": {"team": "platform"}})
    builder.ring(5, said=SERVE)
    assert cost("tag:team", builder=builder)[("platform",)] == 2


def test_what_is_no_text_is_unsaid() -> None:
    """A ring's identity comes from anybody; other kinds of values are not shown."""
    builder = book()
    builder.ring(4, said={**SERVE, "tags": {"team": ["a"], "project": None}})
    builder.ring(5, said={**SERVE, "tags": None})
    assert cost("tag:team", builder=builder)[("search",)] == 2


@pytest.mark.parametrize("name", ["tag:", "tags:team", "tag"])
def test_a_tag_without_a_name(name: str) -> None:
    """It is refused with what there is."""
    with book().ledger() as ledger, pytest.raises(LedgerError, match="tag:NAME"):
        report(ledger, by=(name,))


def test_a_tag_that_nobody_said() -> None:
    """It is a report with a hint: it may be said tomorrow, and it may be a slip."""
    for builder, said in (
        (book(), "there are tag:project, tag:team"),
        (LedgerBuilder(), "no program said a tag"),
    ):
        with builder.ledger() as ledger:
            found = report(ledger, by=("tag:nope", "tag:nope"))
        (hint,) = [each for each in found.warnings if "nope" in each]
        assert said in hint
