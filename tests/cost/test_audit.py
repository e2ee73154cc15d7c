"""The audit finds every kind of tampering, names the first, and is silent on a right book."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Table

from apportion.core.category import SETTLED, Category, Phase
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.audit import AuditResult, audit, audit_json, audit_text
from apportion.cost.ledger.engine import ledger_url, open_engine
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.schema import charge, span
from apportion.cost.testing import Claim, LedgerBuilder

pytestmark = pytest.mark.usefixtures("each_database")

S = NS_PER_SECOND
T0 = 472_222 * NS_PER_HOUR


def book() -> LedgerBuilder:
    """Two devices and their group; a request and a step, idle time, an open span, a move."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.device(2, "GPU-2")
    builder.group(3, [1, 2])
    builder.rate(1, Fraction(2_400_000_000_001, 7), valid_from_ns=T0 + 5 * S)
    builder.entity(1, "serve", tenant="search")
    builder.entity(2, "train", run="r1")
    for ring in (1, 2):
        builder.ring(ring)
    builder.span(1, 1, Interval(T0 + 5 * S, T0 + 10 * S), entity=1)
    builder.span(2, 1, Interval(T0 + 10 * S, T0 + 20 * S), entity=2)
    request = Claim(Category.DIRECT, 3, 1, 1, 1, phases=((Phase.PREFILL, 2), (Phase.DECODE, 5)))
    step = Claim(Category.DIRECT, 3, 2, 2, 1)
    for device in (1, 2):
        pieces = [
            (5, 10, [request]),
            (10, 20, [step]),
            (20, 3_590, [Claim(Category.ALLOCATED_IDLE, device, 2)]),
            (3_590, 3_620, [Claim(Category.DIRECT, device, 2, 2, 2, open=True)]),
        ]
        for start, end, claims in pieces:
            interval = Interval(T0 + start * S, T0 + end * S)
            builder.settle(device, interval, claims, rate=1, power_mw=333_333)
    builder.move(
        Interval(T0 + 10 * S, T0 + 20 * S), step, step._replace(category=Category.LOST), (7, 8, 9)
    )
    return builder


@pytest.fixture
def path(tmp_path: Path, each_database: str) -> Path | str:
    """A right book in a file, or in a shared ledger: its URL."""
    place = tmp_path / "ledger.db"
    with book().ledger(place) as ledger:
        assert audit(ledger).holds
    return each_database or place


def after(path: Path | str, *statements: str) -> AuditResult:
    """What the audit says once somebody has been at the ledger with SQL."""
    engine = open_engine(ledger_url(path))
    with engine.connect() as connection, connection.begin():
        for statement in statements:
            changed = connection.exec_driver_sql(statement).rowcount
            assert changed != 0, f"changed nothing: {statement}"
    engine.dispose()
    with LedgerReader.of(path) as reader:
        return audit(reader)


def copied(table: Table, where: str, **changes: object) -> str:
    """SQL that inserts a row like the one that is there, with some columns changed."""
    names = [column.name for column in table.c]
    values = [str(changes.get(name, name)) for name in names]
    into = f"INSERT INTO {table.name} ({', '.join(names)})"
    return f"{into} SELECT {', '.join(values)} FROM {table.name} WHERE {where}"


HOUR_LATER = ", ".join(
    f"{name} = {name} + {NS_PER_HOUR}" for name in ("start_ns", "end_ns", "posted_ns")
)

TAMPERINGS = {
    "a settlement made dearer": (
        "UPDATE settlement SET units = units + 1 WHERE device_key = 1 AND start_ns = {10}",
        "metered",
        "device GPU-1 on node-1",
    ),
    "a settlement taken out": (
        "DELETE FROM settlement WHERE device_key = 2 AND start_ns = {20}",
        "contiguous",
        "device GPU-2",
    ),
    "a settlement made longer": (
        "UPDATE settlement SET end_ns = end_ns + 1 WHERE device_key = 1 AND start_ns = {10}",
        "contiguous",
        "device GPU-1",
    ),
    "a settlement that overlaps": (
        (
            "INSERT INTO settlement (agent_id, device_key, start_ns, end_ns) "
            "SELECT agent_id, 1, {12}, {13} FROM agent"
        ),
        "contiguous",
        "start should be",
    ),
    "a watermark ahead": (
        "UPDATE watermark SET settled_ns = settled_ns + 1 WHERE device_key = 2",
        "contiguous",
        "watermark",
    ),
    "a watermark that began earlier": (
        "UPDATE watermark SET since_ns = since_ns - 1 WHERE device_key = 1",
        "contiguous",
        "start should be",
    ),
    "a watermark lost": (
        "DELETE FROM watermark WHERE device_key = 1",
        "contiguous",
        "watermark should be one for the device",
    ),
    "every settlement of a device lost": (
        "DELETE FROM settlement WHERE device_key = 2",
        "contiguous",
        "settlements should be from start to end",
    ),
    "a rate changed afterwards": (
        "UPDATE rate SET numerator = '2500000000001'",
        "metered",
        "units should be",
    ),
    "a rate taken out": ("DELETE FROM rate", "metered", "rate 1 should be a row of rate"),
    "a rate that began later": (
        "UPDATE rate SET valid_from_ns = {11}",
        "metered",
        "start of rate 1",
    ),
    "an amount without a rate": (
        "UPDATE settlement SET rate_key = NULL WHERE device_key = 1 AND start_ns = {10}",
        "metered",
        "units without a rate should be NULL",
    ),
    "a part of a settlement taken out": (
        "DELETE FROM settlement_part WHERE device_key = 1 AND start_ns = {10}",
        "parts",
        "device_ns of its parts should be 10000000000, the ledger has 0",
    ),
    "energy of a part": (
        (
            "UPDATE settlement_part SET energy_mj = energy_mj - 1 WHERE device_key = 1 "
            "AND start_ns = {10}"
        ),
        "parts",
        "energy_mj of its parts",
    ),
    "a part in a category that settlement never gives": (
        "UPDATE settlement_part SET category = 10 WHERE device_key = 1 AND start_ns = {10}",
        "parts",
        "category",
    ),
    "a part without a settlement": (
        "INSERT INTO settlement_part SELECT agent_id, 9, 0, 1, 1, 0, NULL, NULL FROM agent",
        "parts",
        "settlement of a part should be one",
    ),
    "a charge made cheaper": (
        "UPDATE charge SET units = units - 1 WHERE ring_key = 2 AND kind = 1",
        "charged",
        "group GPU-1+GPU-2, direct",
    ),
    "a charge taken out": (
        "DELETE FROM charge WHERE ring_key = 1 AND phase = 2",
        "charged",
        "device_ns of lines and running sums",
    ),
    "a charge posted twice": (
        copied(charge, "ring_key = 2 AND kind = 1", charge_key=99),
        "charged",
        "group GPU-1+GPU-2",
    ),
    "a charge moved to another category": (
        "UPDATE charge SET category = 8 WHERE category = 7 AND group_key = 1",
        "charged",
        "group GPU-1, ",
    ),
    "a charge moved to another hour": (
        f"UPDATE charge SET {HOUR_LATER} WHERE ring_key = 2 AND kind = 1",
        "charged",
        "direct",
    ),
    "a charge without its amount": (
        "UPDATE charge SET units = NULL WHERE ring_key = 2 AND kind = 1",
        "charged",
        "units of lines",
    ),
    "a running sum taken out": ("DELETE FROM accrual", "charged", "direct"),
    "energy of a running sum": (
        "UPDATE accrual SET energy_mj = energy_mj + 1 WHERE group_key = 2",
        "charged",
        "energy_mj of lines",
    ),
    "half a move taken out": (
        "DELETE FROM charge WHERE kind = 2 AND category = 10",
        "reallocated",
        "device_ns of the moves posted at",
    ),
    "a move that makes money": (
        "UPDATE charge SET units = units + 1 WHERE kind = 2 AND category = 10",
        "reallocated",
        "units of the moves",
    ),
    "a line that leaves its hour": (
        "UPDATE charge SET end_ns = {3601} WHERE ring_key = 2 AND kind = 1",
        "lines",
        "end_ns",
    ),
    "a line by an unknown method": (
        "UPDATE charge SET method_key = 5 WHERE kind = 2",
        "lines",
        "method_key should be known, the ledger has 5",
    ),
    "a line for an unknown entity": (
        "UPDATE charge SET entity_key = 77 WHERE ring_key = 2 AND kind = 1",
        "lines",
        "entity_key should be known, the ledger has 77",
    ),
    "a line of an unknown kind": (
        copied(charge, "ring_key = 2 AND kind = 1", charge_key=99, kind=4),
        "lines",
        "kind should be known",
    ),
    "a span written twice": (
        copied(span, "ring_key = 1", sequence=50),
        "unique",
        "span 1 of ring 00000000000000000000000000000001",
    ),
    "a span taken out": (
        "DELETE FROM span WHERE ring_key = 2",
        "spans",
        "span 1 of ring 00000000000000000000000000000002 should be there",
    ),
}


def at(text: str) -> str:
    """`{10}` becomes ten seconds after the start of the book."""
    for second in (10, 11, 12, 13, 20, 3601):
        text = text.replace(f"{{{second}}}", str(T0 + second * S))
    return text


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found(path: Path | str, kind: str) -> None:
    """Whatever was changed behind the ledger's back, the first check that can see it fails."""
    statement, name, message = TAMPERINGS[kind]
    result = after(path, at(statement))
    assert not result.holds
    assert result.exit_code == 1
    failing = [check for check in result.checks if not check.holds]
    assert failing[0].name == name
    assert message in str(result.first)
    assert str(result.first) in audit_text(result)


def test_right_book_is_clean(path: Path | str) -> None:
    """No finding on a book that holds, and the count shows that something was looked at."""
    with LedgerReader.of(path) as reader:
        result = audit(reader)
    assert result.holds
    assert result.exit_code == 0
    assert result.first is None
    assert {check.name: check.examined for check in result.checks} == {
        "contiguous": 10,
        "metered": 10,
        "parts": 10,
        "charged": 7,
        "reallocated": 1,
        "lines": 7,
        "repriced": 0,
        "adjusted": 0,
        "beside": 0,
        "rules": 0,
        "ruled": 0,
        "unique": 2,
        "spans": 3,
        "orphans": 38,
        "methods": 1,
        "rolled up": 0,
        "rolled spans": 0,
        "longer": 0,
        "rolled meter": 0,
    }
    assert audit_text(result).endswith("to the unit and the millijoule.\n")


def test_empty_ledger_is_clean(tmp_path: Path) -> None:
    """An agent that has settled nothing yet has a right book."""
    with LedgerBuilder().ledger(tmp_path / "ledger.db") as ledger:
        assert audit(ledger).holds


def test_json_names_both_figures(path: Path | str) -> None:
    """A program reads which device and interval broke first, what was expected and found."""
    statement = "UPDATE settlement SET units = units + 1 WHERE device_key = 1 AND start_ns = {10}"
    result = after(path, at(statement))
    document = json.loads(audit_json(result))
    first = document["first"]
    assert document["holds"] is False
    assert first["subject"] == "device GPU-1"
    assert (first["start_ns"], first["end_ns"]) == (T0 + 10 * S, T0 + 20 * S)
    assert int(first["found"]) == int(first["expected"]) + 1
    assert [check["name"] for check in document["checks"]][:3] == [
        "contiguous",
        "metered",
        "parts",
    ]


def test_span_still_open_needs_no_row(tmp_path: Path) -> None:
    """A span that runs across the hour has a posted line before its record comes: no finding."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.ring(1)
    builder.settle(1, Interval(T0, T0 + NS_PER_HOUR), [Claim(Category.DIRECT, 1, 0, 1, 1)])
    with builder.ledger(tmp_path / "ledger.db") as ledger:
        assert audit(ledger).holds


def dead_ring(path: Path, lost: int) -> Ledger:
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.ring(1, ended_ns=T0 + NS_PER_HOUR, lost=lost)
    hour = Interval(T0, T0 + NS_PER_HOUR)
    builder.settle(1, hour, [Claim(Category.DIRECT, 1, 0, 1, 1)])
    later = Interval(T0 + NS_PER_HOUR, T0 + 2 * NS_PER_HOUR)
    builder.settle(1, later, [Claim(Category.UNALLOCATED, 1)])
    return builder.ledger(path)


def test_dead_ring_owes_its_spans(tmp_path: Path) -> None:
    """Once its process died and nothing was lost, every charged span must have come."""
    with dead_ring(tmp_path / "right.db", lost=1) as ledger:
        assert audit(ledger).holds
    with dead_ring(tmp_path / "wrong.db", lost=0) as ledger:
        result = audit(ledger)
    assert "span 1 of ring" in str(result.first)


def test_energy_may_be_late(tmp_path: Path, each_database: str) -> None:
    """Energy of a telemetry gap comes with a later settlement, in a part without time."""
    path = tmp_path / "ledger.db"
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.settle(1, Interval(T0, T0 + 10 * S), [Claim(Category.UNALLOCATED, 1)], power_mw=1_000)
    builder.ledger(path).close()
    result = after(
        each_database or path,
        "UPDATE settlement SET energy_mj = energy_mj + 70",
        "INSERT INTO settlement_part SELECT agent_id, 1, start_ns, 9, 1, 0, NULL, 70 "
        "FROM settlement",
        "INSERT INTO charge SELECT agent_id, 99, 1, 1, 9, NULL, NULL, NULL, NULL, start_ns, "
        "end_ns, end_ns, 0, 70, NULL, NULL, 1, 'telemetry_gap', 0, NULL, NULL FROM settlement",
    )
    assert result.holds, audit_text(result)


def test_moves_between_linked_groups(tmp_path: Path) -> None:
    """Time given to one device may move to a group that it is in, but to no other device."""
    for other, holds in ((3, True), (4, False)):
        builder = LedgerBuilder()
        for key in (1, 2, 4):
            builder.device(key, f"GPU-{key}")
            idle = Claim(Category.UNINSTRUMENTED, key)
            builder.settle(key, Interval(T0, T0 + 10 * S), [idle], power_mw=9)
        builder.group(3, [2, 1])
        builder.move(
            Interval(T0, T0 + S),
            Claim(Category.UNINSTRUMENTED, 1),
            Claim(Category.DIRECT, other),
            (S, 1, None),
        )
        with builder.ledger(tmp_path / f"{other}.db") as ledger:
            assert audit(ledger).holds is holds


claims = st.builds(
    Claim,
    category=st.sampled_from(SETTLED),
    group=st.sampled_from([1, 3]),
    entity=st.sampled_from([0, 1, 2]),
    weight=st.integers(1, 9),
    open=st.booleans(),
    ring=st.just(0),
    number=st.just(0),
    phases=st.just(((Phase.NONE, 1),)),
    incomplete=st.just(False),
)


@settings(max_examples=settings().max_examples // 8)
@given(
    lengths=st.lists(st.integers(1, 3 * NS_PER_HOUR), min_size=1, max_size=6),
    who=st.lists(st.lists(claims, min_size=1, max_size=4), min_size=6, max_size=6),
    rate=st.none() | st.fractions(0, 10**14, max_denominator=10**6),
    power_mw=st.none() | st.integers(0, 1_000_000),
)
def test_random_books_hold(
    lengths: list[int],
    who: list[list[Claim]],
    rate: Fraction | None,
    power_mw: int | None,
) -> None:
    """However time is cut and shared, at any rate and power: what adds up is found to add up."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.device(2, "GPU-2")
    builder.group(3, [1, 2])
    builder.entity(1, "a")
    builder.entity(2, "b")
    if rate is not None:
        builder.rate(1, rate)
    for device in (1, 2):
        start_ns = T0
        for length_ns, takers in zip(lengths, who, strict=False):
            own = [claim if claim.group == 3 else claim._replace(group=device) for claim in takers]
            interval = Interval(start_ns, start_ns + length_ns)
            key = None if rate is None else 1
            builder.settle(device, interval, own, rate=key, power_mw=power_mw)
            start_ns += length_ns
    with builder.ledger() as ledger:
        result = audit(ledger)
    assert result.holds, audit_text(result)
