"""The evaluation is a gate that can close, and the page says what it measured."""

from __future__ import annotations

import json

import pytest
from benchmarks.evaluation.__main__ import BASELINE, PAGE, THRESHOLDS, worse
from benchmarks.evaluation.accuracy import METHODS


def test_worse_is_seen() -> None:
    """Above the baseline, above a threshold, or new: each is named."""
    baseline = {"distance | a | m": 1.0, "residual | a | m": 0.0}
    assert worse(baseline, baseline, {"residual |": 0}) == []
    assert worse({"distance | a | m": 0.5}, baseline, {}) == []
    (problem,) = worse({"distance | a | m": 1.1}, baseline, {})
    assert problem == "distance | a | m: 1.1000, was 1.0000"
    (problem,) = worse({"distance | a | m": 1.0}, baseline, {"distance | a": 0.9})
    assert "above its threshold 0.9" in problem
    (problem,) = worse({"distance | b | m": 1.0}, baseline, {})
    assert "not in the baseline" in problem


def test_the_baseline_keeps_its_thresholds() -> None:
    """What is accepted as the state is within what is promised, and every promise is about it."""
    baseline, thresholds = (json.loads(path.read_text()) for path in (BASELINE, THRESHOLDS))
    assert worse(baseline, baseline, thresholds) == []
    for part in thresholds:
        assert any(name.startswith(part) for name in baseline), part


@pytest.mark.parametrize("case", ["azure x2, rate x2", "azure x4", "made-up x4"])
def test_windows_beat_tokens(case: str) -> None:
    """What a sidecar alone can know is nearer than tokens with every batch known."""
    baseline = json.loads(BASELINE.read_text())
    windows = baseline[f"distance | {case} | roofline-windows/1"]
    assert windows < baseline[f"distance | {case} | token-share/1"]


def test_the_page_has_the_baselines_figures() -> None:
    """docs/methods.md is not older than the baseline."""
    baseline, page = json.loads(BASELINE.read_text()), PAGE.read_text()
    for case in {name.split(" | ")[1] for name in baseline if name.startswith("distance")}:
        values = [f"{baseline[f'distance | {case} | {method}']:.2f} %" for method in METHODS]
        assert f"| {case} | {' | '.join(values)} |" in page
