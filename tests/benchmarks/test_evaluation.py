"""The evaluation is a gate that can close, and the page says what it measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.evaluation import __main__ as evaluation
from benchmarks.evaluation import accuracy, conservation
from benchmarks.evaluation.__main__ import BASELINE, PAGE, THRESHOLDS, worse
from benchmarks.evaluation.accuracy import METHODS
from benchmarks.evaluation.cases import own_cases
from benchmarks.evaluation.curves import energy_rows

from apportion.cost.replay.replay import Replayed, replay


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


def test_a_method_that_tokens_beat_is_no_use() -> None:
    """What a sidecar alone can know has to be nearer than tokens with every batch known."""
    figures = {"distance | a | roofline-windows/1": 3.0, "distance | a | token-share/1": 3.5}
    assert worse(figures, figures, {}) == []
    figures["distance | a | roofline-windows/1"] = 3.5
    (problem,) = worse(figures, figures, {})
    assert "no nearer than token-share/1" in problem


PROMISED = {
    "distance | golden conv200 | roofline-windows/1": 0.8,
    "distance | golden conv200 | roofline-counts/1": 0.4,
    "distance | golden conv200 | roofline-two-part/1": 0.2,
    "distance | azure x2, rate x2 | roofline-windows/1": 4.0,
    "distance | azure x2, rate x2 | roofline-counts/1": 2.0,
    "distance | azure x2, rate x2 | roofline-two-part/1": 1.0,
    "distance | azure x4 | roofline-windows/1": 4.0,
    "distance | azure x4 | roofline-counts/1": 2.0,
    "distance | azure x4 | roofline-two-part/1": 1.0,
    "largest | golden times": 1.0,
    "residual |": 0,
}


def test_what_was_promised_is_a_threshold() -> None:
    """Nobody loosens a limit that people were given by updating a file."""
    thresholds = json.loads(THRESHOLDS.read_text())
    assert {name: thresholds.get(name) for name in PROMISED} == PROMISED
    assert any(name.startswith("median | operators") for name in thresholds)
    assert any(name.startswith("median | J per token") for name in thresholds)


@pytest.fixture
def only_a_small_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation where there are no published inputs, on one trace of our own."""
    monkeypatch.setattr(evaluation, "fixtures", lambda: None)
    cases = [next(iter(own_cases()))]
    monkeypatch.setattr(evaluation, "own_cases", lambda: cases)


@pytest.mark.usefixtures("only_a_small_case")
def test_the_gate_is_open_and_says_what_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A user without the published inputs gets a verdict on what can be had, and knows."""
    assert evaluation.main([]) == 0
    out = capsys.readouterr().out
    assert "figures left out: no published inputs (APPORTION_FIXTURES)" in out
    assert out.splitlines()[-1] == "eval: 20 hold"


@pytest.mark.usefixtures("only_a_small_case")
@pytest.mark.parametrize("spoilt", ["roofline-windows/1", "roofline-two-part/1"])
def test_a_method_made_worse_closes_the_gate(
    spoilt: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method that divides by time instead is named, by baseline, threshold and rank."""
    worse_methods = {**METHODS, spoilt: METHODS["time-share/1"]}
    monkeypatch.setattr(accuracy, "METHODS", worse_methods)
    assert evaluation.main([]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WORSE")]
    assert problems
    assert all(spoilt in line for line in problems)
    assert any("above its threshold" in line for line in problems)


@pytest.mark.usefixtures("only_a_small_case")
def test_a_method_that_loses_a_unit_closes_the_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Conservation is a figure too: its threshold is 0."""

    def losing(*arguments: object, **more: object) -> Replayed:
        whole = replay(*arguments, **more)  # type: ignore[arg-type]
        return replace(whole, units=whole.units + 1)

    monkeypatch.setattr(conservation, "replay", losing)
    assert evaluation.main([]) == 1
    assert "residual | made-up | time-share/1: 1.0000 is above" in capsys.readouterr().out


def test_joules_a_token_are_watts_over_tokens_a_second(published: Path) -> None:
    """The identity that the measured curve rests on: e = P / throughput, within two percent."""
    path = published / "energy" / "mlenergy_v3_Llama-3.1-8B-Instruct_lm-arena-chat.json"
    for gpu in ("H100", "B200"):
        rows = energy_rows(path, gpu)
        error = rows.watts / rows.tokens_per_s / rows.joules_per_token - 1
        assert abs(error).max() < 0.02


def test_the_page_has_the_baselines_figures() -> None:
    """docs/methods.md is not older than the baseline."""
    baseline, page = json.loads(BASELINE.read_text()), PAGE.read_text()
    for case in {name.split(" | ")[1] for name in baseline if name.startswith("distance")}:
        values = [f"{baseline[f'distance | {case} | {method}']:.2f} %" for method in METHODS]
        assert f"| {case} | {' | '.join(values)} |" in page
