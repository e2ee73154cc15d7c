"""What the ledger says of the requests, beside what their callers were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from typing import Any, Final, NamedTuple

from tests.faults.book import Book
from tests.real_vllm.runs import Run
from tests.real_vllm.traffic import Answer

from apportion.client.engine import ids_within
from apportion.core.category import Category, SpanKind, SpanStatus

_SPANS: Final = """
    select request_id, coalesce(tenant, ''), coalesce(model, ''), input_tokens,
           coalesce(cached_input_tokens, 0), output_tokens, status, late, start_ns, scheduled_ns,
           first_token_ns, end_ns
    from span join entity using (agent_id, entity_key) where parent = 0 and kind = ?
"""
_SERVERS: Final = "select count(distinct ring_key) from span where parent = 0"
_LINES: Final = "select category, units, device_ns from charge union all "
_ACCRUED: Final = "select category, units, device_ns from accrual"


class Span(NamedTuple):
    """A request in the ledger, as `_SPANS` selects it."""

    request_id: str
    tenant: str
    model: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    status: int
    late: int
    start_ns: int
    scheduled_ns: int | None
    first_token_ns: int | None
    end_ns: int


def spans(book: Book) -> list[Span]:
    """The requests of a ledger."""
    return [Span(*row) for row in book.rows(_SPANS, int(SpanKind.REQUEST))]


def callers_id(request_id: str, known: Container[str]) -> str:
    """The id of `known` that an engine's own contains, as traces and batches have it."""
    if request_id in known:
        return request_id
    return next((each for each in ids_within(request_id) if each in known), request_id)


def differences(told: Iterable[Answer], found: Iterable[Span], run: Run) -> list[str]:
    """Whatever a request's caller was told otherwise, in sentences."""
    expected = {each.request_id: each for each in told}
    found = [each._replace(request_id=callers_id(each.request_id, expected)) for each in found]
    seen = Counter(each.request_id for each in found)
    faults = [f"{name}: {seen[name]} times" for name in expected if seen[name] != 1]
    faults += [f"{name}: nobody sent it" for name in seen if name not in expected]
    for span in found:
        answer = expected.get(span.request_id)
        if answer is not None and _facts(span, run) != _facts(answer, run):
            faults.append(f"{span} but the answer said {answer}")
        if span.status != int(SpanStatus.OK):
            faults.append(f"{span.request_id}: status {span.status}")
        if span.first_token_ns is None or (run.knows_admission and span.scheduled_ns is None):
            faults.append(f"{span.request_id}: not known when it ran")
    return faults


def _facts(of: Span | Answer, run: Run) -> tuple[object, ...]:
    return (
        of.tenant if run.knows_tenants else None,
        of.input_tokens,
        of.cached_input_tokens if run.knows_cached else None,
        of.output_tokens,
    )


def figures(book: Book, found: list[Span]) -> dict[str, Any]:
    """Sums of the run: tokens, mean times, and where the money went."""
    units: Counter[str] = Counter()
    for category, amount, _ in book.rows(_LINES + _ACCRUED):
        units[Category(category).name.lower()] += amount or 0
    metered = sum(row[0] or 0 for row in book.rows("select units from settlement"))
    count = len(found)

    def mean_ms(lengths_ns: Iterable[int]) -> float:
        return round(sum(lengths_ns) / count / 1e6, 1)

    return {
        "requests": count,
        "processes_they_came_from": book.rows(_SERVERS)[0][0],
        "input_tokens": sum(each.input_tokens for each in found),
        "cached_input_tokens": sum(each.cached_input_tokens for each in found),
        "output_tokens": sum(each.output_tokens for each in found),
        "learnt_late": sum(each.late for each in found),
        "mean_wait_ms": mean_ms((s.scheduled_ns or s.start_ns) - s.start_ns for s in found),
        "mean_prefill_ms": mean_ms(
            (s.first_token_ns or 0) - (s.scheduled_ns or s.start_ns) for s in found
        ),
        "mean_decode_ms": mean_ms(s.end_ns - (s.first_token_ns or 0) for s in found),
        "metered_units": metered,
        "units_by_category": dict(units),
        "lines_minus_meter_units": sum(units.values()) - metered,
    }
