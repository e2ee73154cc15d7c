"""Requests for programs: JSON with every figure, CSV with a line for each phase of each request."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any, Final

from apportion.core.category import Phase
from apportion.cost.figure_text import cell
from apportion.cost.quantity import Quantity
from apportion.cost.report_data import quantity_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apportion.cost.serving.request_rows import RequestReport, RequestRow, Work

CSV_FIGURES: Final = ("device_ns", "units", "cost", "energy_mj")
CSV_COLUMNS: Final = (
    *("request_id", "workload", "tenant", "model", "phase", "currency"),
    *CSV_FIGURES,
)
NOT_POSTED: Final = "not_posted"
REST: Final = "rest"


def request_json(report: RequestReport) -> str:
    """Everything in the report. Money twice: whole units, and a decimal string (`cost`)."""
    document = {
        "ledger": report.ledger,
        "simulated": report.simulated,
        "currency": report.currency,
        "estimated": report.estimated,
        "requests": [_request(row) for row in report.requests],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def request_csv(report: RequestReport) -> str:
    """Where the cost of each request went: lines that add up to it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in report.requests:
        who = [cell(name) for name in (row.request_id, row.workload, row.tenant, row.model)]
        for phase, amount in _lines(row):
            figures = quantity_document(amount)
            writer.writerow([*who, phase, report.currency, *map(figures.get, CSV_FIGURES)])
    return out.getvalue()


def _lines(row: RequestRow) -> Iterator[tuple[str, Quantity]]:
    yield from _phases(row.work).items()
    if not row.running.same_amounts(Quantity()):
        yield NOT_POSTED, row.running


def _phases(work: Work) -> dict[str, Quantity]:
    return {_label(phase): amount for phase, amount in work.phases.items()}


def _label(phase: Phase) -> str:
    return phase.label or REST


def _request(row: RequestRow) -> dict[str, Any]:
    others = None
    if row.others is not None:
        others = {"count": row.others.count, **_work(row.others.work)}
    return {
        "request_id": row.request_id,
        "trace_id": row.trace_id,
        "workload": row.workload,
        "tenant": row.tenant,
        "model": row.model,
        "status": row.status.label,
        "start_unix_ns": row.start_unix_ns,
        "ttft_ns": row.ttft_ns,
        "preemptions": row.preemptions,
        **_work(row.work),
        NOT_POSTED: quantity_document(row.running),
        "devices": list(row.devices),
        "allocation_methods": list(row.methods),
        "others": others,
    }


def _work(work: Work) -> dict[str, Any]:
    return {
        "computed_input_tokens": work.computed_tokens,
        "cached_input_tokens": work.cached_tokens,
        "output_tokens": work.output_tokens,
        "waited_ns": work.waited_ns,
        "duration_ns": work.duration_ns,
        "total": quantity_document(work.total),
        "phases": {name: quantity_document(amount) for name, amount in _phases(work).items()},
    }
