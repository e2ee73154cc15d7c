"""What a settled device's time must have become, by brute force from the plain facts.

Written without anything of the code under test: exact fractions over every elementary interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

from apportion.core.category import Category, SpanKind

HOUR_NS = 3_600_000_000_000
KNOWN = (
    Category.DIRECT,
    Category.CHECKPOINT,
    Category.EVALUATION,
    Category.STARTUP,
    Category.BETWEEN_STEPS,
)
"""Categories that follow from spans; the others follow from readings."""

Rows = Sequence[Mapping[str, Any]]


class Payer(NamedTuple):
    """A span, or a run's own time of one category."""

    category: Category | None
    ring: int
    number: int
    entity: int


class Ring(NamedTuple):
    """The facts about a ring. `spells`: (from ns, to ns, device keys)."""

    key: int
    entity: int
    startup: tuple[int, int] | None
    admits_from: int | None
    spells: Sequence[tuple[int, int, Sequence[int]]]


class Claim(NamedTuple):
    """[start, end) of some devices."""

    start_ns: int
    end_ns: int
    category: Category
    payer: Payer
    devices: Sequence[int]


def claims(
    ring: Ring, spans: Rows, running: Sequence[tuple[int, SpanKind, int, int]]
) -> list[Claim]:
    """Everything a ring claims. `spans` are its rows of the ledger, roots and others.

    `running` are (number, kind, claim start, claim end) of what is open.
    """
    roots = [
        (row["number"], SpanKind(row["kind"]), _admitted(ring, row), row["end_ns"])
        for row in spans
        if row["parent"] == 0 and row["kind"] != SpanKind.PHASE
    ]
    roots += running
    found: list[tuple[int, int, Category, Payer]] = []
    for number, kind, start_ns, end_ns in roots:
        category = {
            SpanKind.CHECKPOINT: Category.CHECKPOINT,
            SpanKind.EVALUATION: Category.EVALUATION,
        }.get(kind, Category.DIRECT)
        found.append((start_ns, end_ns, category, Payer(None, ring.key, number, 0)))
    steps = sorted((s, e) for _, kind, s, e in roots if kind is SpanKind.STEP and s < e)
    between = Payer(Category.BETWEEN_STEPS, 0, 0, ring.entity)
    reached_ns = None
    for start_ns, end_ns in steps:
        if reached_ns is not None and reached_ns < start_ns:
            found.append((reached_ns, start_ns, Category.BETWEEN_STEPS, between))
        reached_ns = max(end_ns, reached_ns or end_ns)
    if ring.startup is not None:
        startup = Payer(Category.STARTUP, 0, 0, ring.entity)
        found.append((*ring.startup, Category.STARTUP, startup))
    return [
        Claim(max(start, since), min(end, until), category, payer, devices)
        for start, end, category, payer in found
        for since, until, devices in ring.spells
        if max(start, since) < min(end, until)
    ]


def _admitted(ring: Ring, row: Mapping[str, Any]) -> int:
    if row["kind"] != SpanKind.REQUEST:
        return int(row["start_ns"])
    if row["scheduled_ns"]:
        return int(row["scheduled_ns"])
    ran = ring.admits_from is None or row["sequence"] < ring.admits_from
    if ran or row["first_token_ns"]:
        return int(row["start_ns"])
    return int(row["end_ns"])


class Due(NamedTuple):
    """Exact amounts."""

    device_ns: Fraction
    units: Fraction


def due(
    all_claims: Sequence[Claim], settlements: Rows, rates: Mapping[int, Fraction]
) -> dict[Payer, Due]:
    """What each payer owes over everything that is settled; the rest goes by evidence."""
    time_ns: dict[Payer, Fraction] = defaultdict(Fraction)
    units: dict[Payer, Fraction] = defaultdict(Fraction)
    by_device: dict[int, list[Claim]] = defaultdict(list)
    for claim in all_claims:
        for device in set(claim.devices):
            by_device[device].append(claim)
    for row in settlements:
        start_ns, end_ns = row["start_ns"], row["end_ns"]
        per_ns = rates.get(row["rate_key"] or 0, Fraction(0)) / HOUR_NS
        mine = [
            c for c in by_device[row["device_key"]] if c.start_ns < end_ns and c.end_ns > start_ns
        ]
        edges = sorted(
            {start_ns, end_ns} | {edge for c in mine for edge in c[:2] if start_ns < edge < end_ns}
        )
        for begin_ns, stop_ns in pairwise(edges):
            inside = [c for c in mine if c.start_ns <= begin_ns and c.end_ns >= stop_ns]
            first = next((k for k in KNOWN if any(c.category is k for c in inside)), None)
            sharing = [c for c in inside if c.category is first]
            for claim in sharing:
                part = Fraction(stop_ns - begin_ns, len(sharing))
                time_ns[claim.payer] += part
                units[claim.payer] += part * per_ns
    return {payer: Due(time_ns[payer], units[payer]) for payer in time_ns}
