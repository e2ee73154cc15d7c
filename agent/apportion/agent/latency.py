"""How long spans took: the histograms on /metrics, their bounds and their families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from apportion.core.family import Family
from apportion.core.units import NS_PER_SECOND

BOUNDS_NS: Final = tuple(
    round(bound * NS_PER_SECOND)
    for bound in (
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
        *(5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0),
    )
)
"""Upper bounds of the buckets, ascending; one more bucket has none."""

REST: Final = "rest"
"""The label of a span's time that is in no phase."""

_OF_STEPS: Final = ("workload", "run")
_OF_REQUESTS: Final = ("workload", "model")


def _family(name: str, labels: tuple[str, ...], text: str) -> Family:
    full = f"apportion_{name}"
    return Family(full, "histogram", "seconds", labels, text, "ring reader", simulated=True)


FAMILIES: Final = (
    _family("step_seconds", _OF_STEPS, "Time of training steps that ended well, by rank."),
    _family(
        "request_seconds",
        _OF_REQUESTS,
        "From a request's arrival, or its start where that was not said, to its end. Of requests "
        "that ended well, as the following.",
    ),
    _family("request_queue_seconds", _OF_REQUESTS, "From a request's arrival to its admission."),
    _family(
        "time_to_first_token_seconds", _OF_REQUESTS, "From a request's arrival to its first token."
    ),
    _family(
        "inter_token_seconds",
        _OF_REQUESTS,
        "Between output tokens: the mean of each request that has at least two.",
    ),
    _family(
        "phase_seconds",
        ("workload", "phase"),
        "Time of phases of spans that ended well, by the host's clock: on a GPU it sees when work "
        "was launched.",
    ),
)


@dataclass(frozen=True, slots=True)
class LatencyKey:
    """Whose time it is. `name` is a family's without its prefix; empty text was not said."""

    name: str
    workload: str
    run: str = ""
    model: str = ""
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A span that fell into a bucket, and when it ended."""

    duration_ns: int
    unix_ns: int
    trace_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """A histogram since the process started, one entry a bucket, each bucket for itself."""

    counts: tuple[int, ...]
    sum_ns: int
    examples: tuple[Example | None, ...]
