"""What the evaluation runs on: traces of our own, and published inputs where they are at hand.

`APPORTION_FIXTURES` names the folder of published inputs (default: ../shared/fixtures beside the
repository). Without it the figures that need them are left out, by name.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import numpy as np

from apportion.cost.methods.model_catalogue import model_facts
from apportion.cost.methods.roofline import Roofline
from apportion.cost.methods.shares import FIXED_BITS
from apportion.cost.methods.trace import IterationCounts, Iterations, Trace
from apportion.cost.replay.iterations_file import CountsRow, read_iterations
from apportion.cost.replay.requests_file import read_requests
from benchmarks.evaluation.engine import H100, Arrivals, Simulated, made_up, simulate

REPOSITORY: Final = Path(__file__).parents[2]
ROWS: Final = 2_500
GOLDEN: Final = "golden_sim_conv200"
EXPERTS: Final = Roofline.of(model_facts("qwen3-30b-a3b"), H100)
"""A mixture of 128 experts, of which each token meets 8."""


def fixtures() -> Path | None:
    """The folder of published inputs, where there is one."""
    path = Path(os.environ.get("APPORTION_FIXTURES", REPOSITORY.parent / "shared" / "fixtures"))
    return path if (path / "requests").is_dir() else None


def own_cases() -> Iterator[tuple[str, Simulated]]:
    """Traces that need nothing: seeded, as they are, and with two harsher loads."""
    chat = made_up(600, seed=20_231_116)
    yield "made-up", simulate(chat)
    yield "made-up x2, rate x2", simulate(chat.scaled(prompts=2, answers=4, rate=2.0))
    yield "made-up x4", simulate(chat.scaled(prompts=4, answers=4, rate=1.0))
    yield "made-up, experts", simulate(chat, EXPERTS)


def published_cases(folder: Path) -> Iterator[tuple[str, Simulated]]:
    """The golden trace as it is on file, and two harsher runs of Azure's conversation trace."""
    yield "golden conv200", golden(folder)
    trace = azure(folder)
    yield "azure x2, rate x2", simulate(trace.scaled(prompts=2, answers=4, rate=2.0))
    yield "azure x4", simulate(trace.scaled(prompts=4, answers=4, rate=1.0))


def golden(folder: Path) -> Simulated:
    """The published run: its counts are the sums of its batches."""
    requests = read_requests(folder / "requests" / f"{GOLDEN}.csv")
    rows = read_iterations(folder / "requests" / f"{GOLDEN}.iterations.jsonl").batches
    trace = Trace.of(requests)
    prompts = dict(zip(trace.request_id, trace.input_tokens.tolist(), strict=True))
    counts: list[CountsRow] = []
    for row in rows:
        prefills = [m for m in row.batch if m.context_tokens < prompts[m.request_id]]
        tokens = sum(member.new_tokens for member in prefills)
        decodes = len(row.batch) - len(prefills)
        length_ns = row.end_ns - row.start_ns
        counts.append(
            CountsRow(row.line, row.end_ns, length_ns, len(prefills), tokens, decodes, decodes)
        )
    return Simulated(trace, Iterations.of(rows, trace), IterationCounts.of(counts))


def golden_difference_ns(folder: Path) -> int:
    """How far the simulated engine's times are from the published ones, at most.

    It counts only because that is less than a microsecond.
    """
    expected, mine = golden(folder).trace, simulate(golden_arrivals(folder)).trace
    names = ("start_ns", "first_token_ns", "finish_ns")
    return max(int(np.abs(getattr(mine, n) - getattr(expected, n)).max()) for n in names)


def golden_weights(folder: Path) -> np.ndarray:
    """The published Shapley values, in fixed point, in the trace's order."""
    with (folder / "requests" / f"{GOLDEN}.csv").open(newline="") as file:
        rows = {row["request_id"]: float(row["gpu_s_shapley"]) for row in csv.DictReader(file)}
    requests = read_requests(folder / "requests" / f"{GOLDEN}.csv")
    values = [rows[request.request_id] for request in requests]
    return np.rint(np.array(values) * 1e9 * (1 << FIXED_BITS)).astype(np.int64)


def golden_arrivals(folder: Path) -> Arrivals:
    """What the golden run was made from."""
    with (folder / "requests" / f"{GOLDEN}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return Arrivals(
        np.array([float(row["arrival_s"]) for row in rows]),
        np.array([int(row["prompt_tokens"]) for row in rows]),
        np.array([int(row["output_tokens"]) for row in rows]),
    )


def azure(folder: Path) -> Arrivals:
    """The first rows of Azure's conversation trace (Patel et al., Splitwise, ISCA 2024)."""
    path = folder / "requests" / "AzureLLMInferenceTrace_conv_2023.first6000.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))[:ROWS]
    times = np.array([_seconds(row["TIMESTAMP"]) for row in rows])
    return Arrivals(
        times - times[0],
        np.array([int(row["ContextTokens"]) for row in rows]),
        np.array([int(row["GeneratedTokens"]) for row in rows]),
    )


def _seconds(text: str) -> float:
    """Of a time with seven decimals, of which datetime takes six."""
    instant = datetime.fromisoformat(text[:19]).replace(tzinfo=timezone.utc)
    return instant.timestamp() + float(f"0{text[19:]}" if text[19:] else 0)
