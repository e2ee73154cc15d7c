"""Distance from the oracle: what part of the busy cost a method puts on the wrong request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from apportion.cost.methods.counts import roofline_counts
from apportion.cost.methods.plain import time_share
from apportion.cost.methods.shapley import shapley
from apportion.cost.methods.shares import TraceShares
from apportion.cost.methods.token_share import token_share
from apportion.cost.methods.two_part import roofline_two_part
from apportion.cost.methods.windows import roofline_windows
from benchmarks.evaluation.engine import Simulated

METHODS: Final[Mapping[str, Callable[[Simulated], TraceShares]]] = {
    "roofline-two-part/1": lambda run: roofline_two_part(run.trace, run.iterations, run.roofline),
    "roofline-counts/1": lambda run: roofline_counts(run.trace, run.counts, run.roofline),
    "roofline-windows/1": lambda run: roofline_windows(run.trace, run.roofline),
    "token-share/1": lambda run: token_share(run.trace, run.iterations),
    "time-share/1": lambda run: time_share(run.trace),
}


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One method on one trace, in percent.

    `distance`: half the sum of absolute differences over the busy time. `p95`: the relative
    error of a request that 95 of 100 stay below. `unplaced`: busy time that no request got.
    """

    distance: float
    p95: float
    unplaced: float


def accuracy(shares: TraceShares, oracle: TraceShares) -> Accuracy:
    """How far `shares` are from `oracle`."""
    got, due = shares.seconds, oracle.seconds
    busy = oracle.busy.total_ns / 1e9
    error = np.abs(got - due)
    paying = due > 0
    return Accuracy(
        float(50 * error.sum() / busy),
        float(100 * np.quantile(error[paying] / due[paying], 0.95)),
        float(100 * abs(got.sum() - busy) / busy),
    )


def measured(run: Simulated) -> dict[str, Accuracy]:
    """Every method on one run."""
    oracle = shapley(run.trace, run.iterations, run.roofline)
    return {name: accuracy(method(run), oracle) for name, method in METHODS.items()}
