"""A report for programs: JSON with every figure, CSV with one table."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any, Final

from apportion.cost.figure_text import cell as _cell
from apportion.cost.quantity import Quantity
from apportion.cost.report_text import decimal_amount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from apportion.cost.report_rows import EntityRow, Key, RateRow, Report

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

CSV_LOADED: Final = ("loading", "loaded_units", "loaded_cost")


def report_json(report: Report, runs: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Everything in the report. Money twice: whole units, and a decimal string (`cost`).

    `runs`: what `run_data` says of them, where they were asked for.
    """
    proof = report.proof
    document: dict[str, Any] = {
        "ledger": report.ledger,
        "simulated": report.simulated,
        "currency": report.currency,
        "price_bases": list(report.price_bases),
        "estimated": bool(report.estimates),
        "start_unix_ns": report.start_unix_ns,
        "end_unix_ns": report.end_unix_ns,
        "as_of_unix_ns": report.as_of_unix_ns,
        "settled_until_unix_ns": report.settled_until_unix_ns,
        "by": list(report.by),
        "loading": None
        if report.loaded is None
        else {"policy": report.loaded.policy, "unshared": _money(report.loaded.unshared_units)},
        "rows": [
            {
                **_named(report.by, row.key),
                "total": quantity_document(row.total),
                "direct": quantity_document(row.direct),
                "loaded": _loaded(report, row),
                **_figures(row),
            }
            for row in report.rows
        ],
        "phases": [
            {
                **_named(report.phases_by, row.key),
                "phase": row.phase.label or None,
                "total": quantity_document(row.total),
            }
            for row in report.phases
        ],
        "categories": [
            {
                "category": row.category.label,
                "total": quantity_document(row.total),
                "posted": quantity_document(row.posted),
                "open": quantity_document(row.open),
                "moved": quantity_document(row.moved),
                "adjusted": quantity_document(row.adjusted),
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
                "metered": quantity_document(row.metered),
                "repriced": quantity_document(row.repriced),
                "categories": {
                    category.label: quantity_document(part) for category, part in row.parts.items()
                },
                "idle_power_mw": dict(row.idle_power_mw),
                "by_weights_mj": row.by_weights_mj,
            }
            for row in report.devices
        ],
        "rates": [_fields(row) for row in report.rates],
        "replaced_rates": [_fields(row) for row in report.replaced_rates],
        "proof": {
            "holds": proof.holds,
            "metered": quantity_document(proof.metered),
            "parts": quantity_document(proof.parts),
            "posted": quantity_document(proof.posted),
            "open": quantity_document(proof.open),
            "moved": quantity_document(proof.moved),
            "adjusted": quantity_document(proof.adjusted),
            "repriced": quantity_document(proof.repriced),
        },
        "warnings": list(report.warnings),
    }
    if runs is not None:
        document["runs"] = list(runs)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def report_csv(report: Report) -> str:
    """The table of who caused what: the report's dimensions, currency, and figures.

    `price_bases` says in every line on what the prices of the report rest, joined by +. The last
    columns are empty where no loaded cost was asked for.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*report.by, "currency", "price_bases", *CSV_FIGURES, *CSV_LOADED])
    money = [report.currency, "+".join(report.price_bases)]
    for row in report.rows:
        figures = {**quantity_document(row.total), **_figures(row)}
        cells = [_cell(name) for name in row.key]
        loaded: list[object] = [None] * len(CSV_LOADED)
        if report.loaded is not None:
            loaded = [report.loaded.policy, *_money(report.loaded.units.get(row.key)).values()]
        writer.writerow([*cells, *money, *(figures[name] for name in CSV_FIGURES), *loaded])
    return out.getvalue()


def _money(units: int | None) -> dict[str, Any]:
    cost = None if units is None else decimal_amount(units, EXACT_DECIMALS)
    return {"units": units, "cost": cost}


def _loaded(report: Report, row: EntityRow) -> dict[str, Any] | None:
    return None if report.loaded is None else _money(report.loaded.units.get(row.key))


def quantity_document(amount: Quantity) -> dict[str, Any]:
    """Its sums as plain values; `cost` is the money as a decimal string."""
    return {
        "device_ns": amount.device_ns,
        **_money(amount.units),
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


def _fields(row: RateRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def _named(by: tuple[str, ...], key: Key) -> Mapping[str, str | None]:
    return dict(zip(by, key, strict=True))
