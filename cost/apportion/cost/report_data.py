"""A report for programs: JSON with every figure, CSV with one table."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any, Final

from apportion.cost.quantity import Quantity
from apportion.cost.report_text import decimal_amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.cost.report_rows import EntityRow, Key, Report

EXACT_DECIMALS: Final = 12
CSV_FIGURES: Final = (
    "device_ns",
    "units",
    "cost",
    "energy_mj",
    "unpriced_ns",
    "open_units",
    "incomplete_units",
    "requests",
    "steps",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "training_tokens",
    "units_per_million_input_tokens",
    "units_per_million_output_tokens",
    "units_per_step",
)


def report_json(report: Report) -> str:
    """Everything in the report. Money twice: whole units, and a decimal string (`cost`)."""
    proof = report.proof
    document = {
        "ledger": report.ledger,
        "simulated": report.simulated,
        "currency": report.currency,
        "start_unix_ns": report.start_unix_ns,
        "end_unix_ns": report.end_unix_ns,
        "as_of_unix_ns": report.as_of_unix_ns,
        "settled_until_unix_ns": report.settled_until_unix_ns,
        "by": list(report.by),
        "rows": [
            {
                **_named(report.by, row.key),
                "total": _quantity(row.total),
                "direct": _quantity(row.direct),
                **_figures(row),
            }
            for row in report.rows
        ],
        "phases": [
            {
                **_named(report.phases_by, row.key),
                "phase": row.phase.label or None,
                "total": _quantity(row.total),
            }
            for row in report.phases
        ],
        "categories": [
            {
                "category": row.category.label,
                "total": _quantity(row.total),
                "posted": _quantity(row.posted),
                "open": _quantity(row.open),
                "moved": _quantity(row.moved),
                "adjusted": _quantity(row.adjusted),
            }
            for row in report.categories
        ],
        "devices": [
            {
                "node": row.node,
                "device": row.device,
                "name": row.name,
                "simulated": row.simulated,
                "settled_until_unix_ns": row.settled_until_unix_ns,
                "energy_sources": list(row.energy_sources),
                "metered": _quantity(row.metered),
                "categories": {
                    category.label: _quantity(part) for category, part in row.parts.items()
                },
            }
            for row in report.devices
        ],
        "rates": [{name: getattr(row, name) for name in row.__slots__} for row in report.rates],
        "proof": {
            "holds": proof.holds,
            "metered": _quantity(proof.metered),
            "parts": _quantity(proof.parts),
            "posted": _quantity(proof.posted),
            "open": _quantity(proof.open),
            "moved": _quantity(proof.moved),
            "adjusted": _quantity(proof.adjusted),
        },
        "warnings": list(report.warnings),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def report_csv(report: Report) -> str:
    """The table of who caused what: the report's dimensions, currency, and figures."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*report.by, "currency", *CSV_FIGURES])
    for row in report.rows:
        figures = {**_quantity(row.total), **_figures(row)}
        cells = [_cell(name) for name in row.key]
        writer.writerow([*cells, report.currency, *(figures[name] for name in CSV_FIGURES)])
    return out.getvalue()


def _quantity(amount: Quantity) -> dict[str, Any]:
    cost = None if amount.units is None else decimal_amount(amount.units, EXACT_DECIMALS)
    return {
        "device_ns": amount.device_ns,
        "units": amount.units,
        "cost": cost,
        "energy_mj": amount.energy_mj,
        "unpriced_ns": amount.unpriced_ns,
        "unmetered_ns": amount.unmetered_ns,
    }


def _figures(row: EntityRow) -> dict[str, Any]:
    """Every field of a row that is a plain figure."""
    return {
        name: value
        for name, value in row._asdict().items()
        if name not in {"key", "total", "direct"}
    }


def _named(by: tuple[str, ...], key: Key) -> Mapping[str, str | None]:
    return dict(zip(by, key, strict=True))


def _cell(name: str | None) -> str | None:
    """A name that a spreadsheet would run as a formula is quoted; names come from workloads."""
    return f"'{name}" if name and name[0] in "=+-@\t\r" else name
