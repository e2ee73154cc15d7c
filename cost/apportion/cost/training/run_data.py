"""Runs for programs: JSON with every figure, CSV with where the cost went."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, cast

from apportion.cost.figure_text import cell
from apportion.cost.quantity import Quantity
from apportion.cost.report_data import EXACT_DECIMALS
from apportion.cost.report_text import decimal_amount
from apportion.cost.training.attempts import Outcome

if TYPE_CHECKING:
    from apportion.cost.training.run_rows import AttemptRow, CheckpointRow, RunReport, RunRow

CSV_COLUMNS: Final = (
    "workload",
    "run",
    "line",
    "currency",
    "device_ns",
    "units",
    "cost",
    "energy_mj",
    "derived_units",
)
_NESTED: Final = frozenset({"key", "attempts", "lines", "total", "checkpoints", "notes"})


def run_json(report: RunReport) -> str:
    """Everything in the report."""
    document = {
        "ledgers": list(report.ledgers),
        "simulated": report.simulated,
        "currency": report.currency,
        "start_unix_ns": report.start_unix_ns,
        "end_unix_ns": report.end_unix_ns,
        "runs": run_documents(report),
        "warnings": list(report.warnings),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def run_documents(report: RunReport) -> list[dict[str, Any]]:
    """Each run as plain values. Money twice: whole units, and a decimal string (`cost`)."""
    return [_run(row) for row in report.runs]


def run_csv(report: RunReport) -> str:
    """Where the cost of each run went: its lines, which add up to its total."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in report.runs:
        who = (cell(row.key.workload), cell(row.key.run))
        for line in row.lines:
            sums = _quantity(line.total)
            amounts = (sums["device_ns"], sums["units"], sums["cost"], sums["energy_mj"])
            derived = line.derived.units
            writer.writerow([*who, line.line.value, report.currency, *amounts, derived])
    return out.getvalue()


def _run(row: RunRow) -> dict[str, Any]:
    return {
        "workload": row.key.workload,
        "run": row.key.run,
        "total": _quantity(row.total),
        "lines": [
            {
                "line": line.line.value,
                "total": _quantity(line.total),
                "derived": _quantity(line.derived),
            }
            for line in row.lines
        ],
        "attempts": [_plain(attempt) for attempt in row.attempts],
        **{f.name: getattr(row, f.name) for f in fields(row) if f.name not in _NESTED},
        "checkpoints": None if row.checkpoints is None else _plain(row.checkpoints),
        "notes": list(row.notes),
    }


def _plain(row: AttemptRow | CheckpointRow) -> dict[str, Any]:
    return {field.name: _value(getattr(row, field.name)) for field in fields(row)}


def _value(value: object) -> object:
    if isinstance(value, Quantity):
        return _quantity(value)
    if isinstance(value, Mapping):
        return {
            key: list(texts) for key, texts in cast("Mapping[str, tuple[str, ...]]", value).items()
        }
    return value.value if isinstance(value, Outcome) else value


def _quantity(amount: Quantity) -> dict[str, Any]:
    cost = None if amount.units is None else decimal_amount(amount.units, EXACT_DECIMALS)
    return {
        "device_ns": amount.device_ns,
        "units": amount.units,
        "cost": cost,
        "energy_mj": amount.energy_mj,
        "unpriced_ns": amount.unpriced_ns,
    }
