"""Two measured curves that a roofline should follow, each fitted on every second row only.

Operator times: Vidur's medians of the four linear operators of a Llama-2-7B layer by tokens in
the batch (microsoft/vidur, MIT). Energy: ML.ENERGY's steady-state runs of Llama-3.1-8B on an H100
by batch size (Chung et al., arXiv 2505.06371). Errors are of the rows that the fit did not see.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apportion.cost.methods.roofline import Roofline

Column = NDArray[np.float64]

OPERATORS: Final = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
CONTEXT: Final = 500
"""About what a chat of the measured kind has: half of its answer, and its prompt."""
_RIDGES: Final = np.geomspace(16, 2048, 600)
_SEEN: Final = slice(0, None, 2)
_HELD_OUT: Final = slice(1, None, 2)


@dataclass(frozen=True, slots=True)
class CurveError:
    """Relative errors over the held-out rows, as ratios."""

    rows: int
    median: float
    p95: float
    largest: float

    @classmethod
    def of(cls, predicted: Column, measured: Column) -> CurveError:
        error = np.abs(predicted / measured - 1)
        return cls(
            error.size,
            float(np.median(error)),
            float(np.quantile(error, 0.95)),
            float(error.max()),
        )


def operator_times(path: Path) -> CurveError:
    """The shape t(N) = fixed + max(alpha N, beta) of a layer's linear operators, held out."""
    with path.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["num_tokens"]))
    tokens = np.array([float(row["num_tokens"]) for row in rows])
    columns = [[float(row[f"time_stats.{name}.median"]) for row in rows] for name in OPERATORS]
    measured: Column = np.array(columns).sum(axis=0, dtype=np.float64)
    best: tuple[float, Column] | None = None
    for ridge in _RIDGES:
        terms = np.stack([np.maximum(tokens / ridge, 1.0), np.ones_like(tokens)], axis=1)
        sizes = _fit(terms[_SEEN], measured[_SEEN])
        error = float(np.abs(terms[_SEEN] @ sizes / measured[_SEEN] - 1).mean())
        if best is None or error < best[0]:
            best = (error, terms @ sizes)
    assert best is not None
    return CurveError.of(best[1][_HELD_OUT], measured[_HELD_OUT])


@dataclass(frozen=True, slots=True)
class EnergyRows:
    """Steady states by batch size: mean batch, output tokens a second, watts, J a token."""

    batch: Column
    tokens_per_s: Column
    watts: Column
    joules_per_token: Column


def energy_rows(path: Path, gpu_model: str) -> EnergyRows:
    rows = [
        row
        for row in json.loads(path.read_text())["configurations"]
        if row["gpu_model"] == gpu_model and row["num_gpus"] == 1
    ]
    rows.sort(key=lambda row: float(row["avg_batch_size"]))
    names = (
        "avg_batch_size",
        "output_throughput_tokens_per_sec",
        "avg_power_watts",
        "energy_per_token_joules",
    )
    return EnergyRows(*(np.array([float(row[name]) for row in rows]) for name in names))


def energy_per_token(rows: EnergyRows) -> CurveError:
    """Joules a token by batch size, held out.

    An iteration takes fixed + size x batch; power is a constant plus joules for each token a
    second, up to the highest that was seen (the board's limit). J a token is power / throughput.
    """
    batch = rows.batch
    terms = np.stack([np.ones_like(batch), batch], axis=1)
    measured_s = batch / rows.tokens_per_s
    tokens_per_s = batch / (terms @ _fit(terms[_SEEN], measured_s[_SEEN]))
    limit = rows.watts[_SEEN].max()
    free = rows.watts[_SEEN] < 0.98 * limit
    of_power = np.stack([np.ones_like(batch), rows.tokens_per_s], axis=1)
    sizes = _fit(of_power[_SEEN][free], rows.watts[_SEEN][free])
    watts = np.minimum(limit, sizes[0] + sizes[1] * tokens_per_s)
    return CurveError.of((watts / tokens_per_s)[_HELD_OUT], rows.joules_per_token[_HELD_OUT])


def nameplate_energy_per_token(rows: EnergyRows, roofline: Roofline) -> CurveError:
    """The same with nothing fitted: measured watts over the iterations that data sheets promise.

    All requests decode with `CONTEXT` tokens. What an engine does beside the forward pass is not
    in it, which is why methods scale to measured time.
    """
    batch = rows.batch
    own_s = roofline.own_s(np.ones_like(batch), np.full_like(batch, CONTEXT))
    iteration_s = roofline.launch_s + roofline.linear_s(batch) + batch * own_s
    return CurveError.of(rows.watts * iteration_s / batch, rows.joules_per_token)


def _fit(terms: Column, measured: Column) -> Column:
    """Least squares of the relative error."""
    solution, *_ = np.linalg.lstsq(terms / measured[:, None], np.ones_like(measured), rcond=None)
    sizes: Column = solution.astype(np.float64)
    return sizes
