"""The demo's own check of the ledger: it passes what agrees, and names what does not."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

REPORT: dict[str, Any] = {
    "rows": [
        {
            "workload": "lm-server",
            "tenant": "search",
            "requests": 3,
            "input_tokens": 90,
            "cached_input_tokens": 32,
            "output_tokens": 12,
        },
        {
            "workload": "lm-server",
            "tenant": "chat",
            "requests": 2,
            "input_tokens": 40,
            "cached_input_tokens": 0,
            "output_tokens": 58,
        },
        {"workload": "gpt-pretrain", "tenant": None, "steps": 7, "training_tokens": 3584},
        {"workload": None, "tenant": None, "steps": 0, "training_tokens": None},
    ]
}
LOAD: dict[str, Any] = {
    "finished": True,
    "tenants": {
        "search": {
            "requests": {"ok": 3, "rejected": 1},
            "prompt_tokens": 90,
            "cached_tokens": 32,
            "completion_tokens": 12,
        },
        "chat": {
            "requests": {"cancelled": 1, "ok": 1},
            "prompt_tokens": 20,
            "cached_tokens": 0,
            "completion_tokens": 50,
        },
    },
}
TRAINER: dict[str, Any] = {"steps": 7, "tokens": 3584}


@pytest.fixture
def reckoning(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module under test, found as the demo finds it."""
    monkeypatch.setattr(sys, "path", [str(repository / "examples"), *sys.path])
    return importlib.import_module("reckoning")


def test_what_agrees_has_no_differences(reckoning: Any) -> None:
    """Rejected requests cost nothing, and cancelled ones may have tokens that nobody was told."""
    assert reckoning.differences(REPORT, LOAD, TRAINER) == []


@pytest.mark.parametrize(
    ("row", "column", "value", "sentence"),
    [
        (0, "output_tokens", 13, "output_tokens of search: 12 were done, 13 are in the ledger"),
        (0, "requests", 2, "requests of search: 3 were done, 2 are in the ledger"),
        (1, "output_tokens", 49, "output_tokens of chat: 50 were done, 49 are in the ledger"),
        (2, "steps", None, "steps of the trainer: 7 were done, 0 are in the ledger"),
    ],
)
def test_a_wrong_figure_is_named(
    reckoning: Any, row: int, column: str, value: int | None, sentence: str
) -> None:
    """A request lost, a token too many, steps without a row: each is said with both figures."""
    report = copy.deepcopy(REPORT)
    report["rows"][row][column] = value
    assert reckoning.differences(report, LOAD, TRAINER) == [sentence]


def test_a_load_that_failed_is_no_proof(reckoning: Any) -> None:
    """Equal figures of a load that got no answers would prove nothing."""
    load = copy.deepcopy(LOAD)
    load["finished"] = False
    load["tenants"]["search"]["requests"] = {"error": 3}
    found = reckoning.differences(REPORT, load, TRAINER)
    assert "3 requests of search failed" in found
    assert "no request of search was answered" in found
    assert "the load did not get its last answers in time" in found
