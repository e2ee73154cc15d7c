"""`make eval`: every method's error and conservation, and two measured curves, as a gate.

    python -m benchmarks.evaluation [--update]

Compares with benchmarks/baseline.json (a figure may not get worse) and with
benchmarks/thresholds.json (it may never be above). `--update` writes the baseline and the table
in docs/methods.md instead. Exit status 1: something got worse.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

from benchmarks.evaluation.accuracy import METHODS, measured
from benchmarks.evaluation.cases import (
    fixtures,
    golden_difference_ns,
    own_cases,
    published_cases,
)
from benchmarks.evaluation.conservation import residual
from benchmarks.evaluation.curves import (
    CurveError,
    energy_per_token,
    energy_rows,
    nameplate_energy_per_token,
    operator_times,
)
from benchmarks.evaluation.engine import ROOFLINE

FOLDER: Final = Path(__file__).parents[1]
BASELINE: Final = FOLDER / "baseline.json"
THRESHOLDS: Final = FOLDER / "thresholds.json"
PAGE: Final = FOLDER.parent / "docs" / "methods.md"
NOISE: Final = 0.002
"""Percentage points: what another processor's arithmetic may change."""
RATE: Final = Fraction(2_490_000_000_000)
BEGIN, END = "<!-- table of make eval -->", "<!-- end of the table -->"

Figures = dict[str, float]


def main(arguments: list[str]) -> int:
    figures = evaluated()
    if arguments == ["--update"]:
        BASELINE.write_text(f"{json.dumps(figures, indent=2, sort_keys=True)}\n")
        write_table(figures)
        print(f"wrote {BASELINE.name} and the table of {PAGE.name}")
        return 0
    if arguments:
        print(__doc__)
        return 2
    baseline: Figures = json.loads(BASELINE.read_text())
    problems = worse(figures, baseline, json.loads(THRESHOLDS.read_text()))
    for name, value in sorted(figures.items()):
        print(f"{value:10.4f}  {baseline.get(name, float('nan')):10.4f}  {name}")
    left_out = sorted(set(baseline) - set(figures))
    if left_out:
        print(f"{len(left_out)} figures left out: no published inputs (APPORTION_FIXTURES)")
    for problem in problems:
        print(f"WORSE  {problem}")
    print("eval: " + (f"{len(problems)} got worse" if problems else f"{len(figures)} hold"))
    return 1 if problems else 0


def evaluated() -> Figures:
    """Every figure that can be had here, by name. Errors are in percent."""
    folder = fixtures()
    figures: Figures = {}
    cases = [*own_cases(), *(published_cases(folder) if folder is not None else ())]
    for case, run in cases:
        for method, accuracy in measured(run).items():
            figures[f"distance | {case} | {method}"] = accuracy.distance
            figures[f"p95 | {case} | {method}"] = accuracy.p95
            figures[f"unplaced | {case} | {method}"] = accuracy.unplaced
        for method, units in residual(run, RATE).items():
            figures[f"residual | {case} | {method}"] = units
    if folder is not None:
        for device in ("h100", "a100"):
            path = folder / "roofline" / f"vidur_mlp_llama2-7b_{device}_tp1.csv"
            _add_curve(figures, f"operators | {device} | fixed + max(aN, b)", operator_times(path))
        path = folder / "energy" / "mlenergy_v3_Llama-3.1-8B-Instruct_lm-arena-chat.json"
        rows = energy_rows(path, "H100")
        _add_curve(figures, "J per token | H100 | every second batch size", energy_per_token(rows))
        nothing_fitted = nameplate_energy_per_token(rows, ROOFLINE)
        _add_curve(figures, "J by data sheets | H100 | nothing fitted", nothing_fitted)
        figures["largest | golden times, microseconds"] = golden_difference_ns(folder) / 1_000
    return figures


def worse(figures: Figures, baseline: Figures, thresholds: Mapping[str, float]) -> list[str]:
    """What is above its threshold, above the baseline by more than noise, or no use.

    A method that knows model and device is no use where tokens alone come as near.
    """
    found: list[str] = []
    for name, value in sorted(figures.items()):
        limit = next((most for part, most in thresholds.items() if name.startswith(part)), None)
        if limit is not None and value > limit:
            found.append(f"{name}: {value:.4f} is above its threshold {limit}")
        known = baseline.get(name)
        if known is None:
            found.append(f"{name}: not in the baseline; run make eval-update and look at it")
        elif value > known + NOISE:
            found.append(f"{name}: {value:.4f}, was {known:.4f}")
        kind, _, case_and_method = name.partition(" | ")
        case, _, method = case_and_method.rpartition(" | ")
        tokens = figures.get(f"{kind} | {case} | token-share/1")
        by_facts = kind == "distance" and method.startswith("roofline")
        if by_facts and tokens is not None and value >= tokens:
            found.append(f"{name}: {value:.4f} is no nearer than token-share/1, {tokens:.4f}")
    return found


def write_table(figures: Figures) -> None:
    """The methods by traces, distances in percent, between the page's two marks."""
    names = (name.split(" | ") for name in figures if name.startswith("distance"))
    cases = list(dict.fromkeys(parts[1] for parts in names))
    lines = ["| trace (SIMULATED) | " + " | ".join(f"`{method}`" for method in METHODS) + " |"]
    lines.append("| --- |" + " ---: |" * len(METHODS))
    for case in cases:
        values = [figures[f"distance | {case} | {method}"] for method in METHODS]
        lines.append(f"| {case} | " + " | ".join(f"{value:.2f} %" for value in values) + " |")
    text = PAGE.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + after)


def _add_curve(figures: Figures, name: str, error: CurveError) -> None:
    figures[f"median | {name}"] = 100 * error.median
    figures[f"p95 | {name}"] = 100 * error.p95
    figures[f"largest | {name}"] = 100 * error.largest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
