"""Whether what a method gives adds up to the meter, to the unit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from apportion.cost.replay.replay import replay
from apportion.cost.replay.requests_file import RequestRow
from benchmarks.evaluation.accuracy import METHODS
from benchmarks.evaluation.engine import Simulated

ENERGY_MJ = 123_456_789


def residual(run: Simulated, units_per_hour: Fraction) -> dict[str, float]:
    """Units, millijoules and nanoseconds that requests and categories miss the total by: 0."""
    rows = rows_of(run)
    found: dict[str, float] = {}
    for name, method in METHODS.items():
        result = replay(rows, method(run), units_per_hour=units_per_hour, energy_mj=ENERGY_MJ)
        parts = result.parts
        found[name] = float(
            abs(sum(part.units for part in parts) - result.units)
            + abs(sum(part.energy_mj or 0 for part in parts) - ENERGY_MJ)
            + abs(sum(part.device_ns for part in parts) - result.device_ns)
        )
    return found


def rows_of(run: Simulated) -> list[RequestRow]:
    """The requests of a trace as its file has them."""
    trace = run.trace
    table = np.stack(
        [
            trace.start_ns,
            trace.first_token_ns,
            trace.finish_ns,
            trace.input_tokens,
            trace.cached_input_tokens,
            trace.output_tokens,
        ],
        axis=1,
    )
    values: list[list[int]] = table.tolist()
    return [
        RequestRow(name, start, token, finish, prompt, cached, output, "")
        for name, (start, token, finish, prompt, cached, output) in zip(
            trace.request_id, values, strict=True
        )
    ]
