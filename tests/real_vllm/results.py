"""What `make test-vllm` saw, as a table for docs/vllm.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from tests.real_vllm.iterations import TrueBatches
from tests.real_vllm.truth import MOST_MOVED

from apportion.cost.methods.names import Method

_COLUMNS: Final = (
    "run",
    "requests",
    "input, of them cached, output tokens",
    "iterations, scheduled ahead",
    "moved",
    "may be",
    "by request-seconds, by tokens",
    "between iterations",
    "lines minus meter",
    "differs",
)


class Result(NamedTuple):
    """One run."""

    name: str
    method: Method | None
    seconds: float
    said: dict[str, Any]
    true: TrueBatches
    beside: dict[str, Any]
    """The true batches; empty where there was a fault before."""
    faults: list[str]


def table(results: Iterable[Result]) -> str:
    """In Markdown."""
    rows = (" | ".join(_cells(result)) for result in results)
    head = (" | ".join(_COLUMNS), " | ".join(["---", *["---:"] * (len(_COLUMNS) - 1)]))
    return "\n".join(f"| {row} |" for row in (*head, *rows))


def _cells(result: Result) -> Iterator[str]:
    said, beside, true = result.said, result.beside, result.true
    yield f"`{result.name}`"
    yield str(said["requests"])
    tokens = ("input_tokens", "cached_input_tokens", "output_tokens")
    yield ", ".join(f"{said[name]:,}" for name in tokens)
    yield f"{true.iterations:,}, {true.ahead:,}"
    yield _percent(beside, "moved")
    yield "" if result.method is None else f"{MOST_MOVED[result.method]:.0%}"
    yield f"{_percent(beside, 'moved_by_request_seconds')}, {_percent(beside, 'moved_by_tokens')}"
    yield _percent(beside, "in_flight_between_iterations")
    yield f"{said['lines_minus_meter_units']} of {said['metered_units']:,}"
    yield "nothing" if not result.faults else f"{len(result.faults)} things"


def _percent(figures: dict[str, Any], name: str) -> str:
    return f"{figures[name]:.2%}" if name in figures else ""
