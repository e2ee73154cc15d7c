"""With what a run computed, as people see it: what was the same once, what differs with where."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from apportion.cost.training.manifest_text import manifest_lines


def attempts(*manifests: Mapping[str, tuple[str, ...]]) -> Any:
    return [
        SimpleNamespace(number=number, manifest=manifest)
        for number, manifest in enumerate(manifests, 1)
    ]


def test_what_was_the_same_is_said_once() -> None:
    """Differences stand alone, with the attempts that have them; ranks may differ too."""
    same = {"python": ("3.11.7",), "torch": ("2.13.0",)}
    lines = manifest_lines(
        attempts(
            {**same, "seed": ("7",), "driver": ("550.54.15",)},
            {**same, "seed": ("7",), "driver": ("550.54.15", "570.10")},
            {**same, "seed": ("8",)},
        )
    )
    assert lines == [
        "What it ran with",
        "  python 3.11.7, torch 2.13.0",
        "  seed: 7 in 1, 2; 8 in 3",
        "  driver: 550.54.15 in 1; 550.54.15 and 570.10 in 2; not said in 3",
    ]


def test_nothing_said_is_nothing_shown() -> None:
    """Processes of an old client."""
    assert manifest_lines(attempts({}, {})) == []


def test_names_that_would_steer_a_terminal() -> None:
    """What a workload says is shown and does nothing."""
    (_, line) = manifest_lines(attempts({"torch": ("2\x1b[31m",)}))
    assert line == "  torch 2?[31m"
