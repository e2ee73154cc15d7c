"""The iterations that a vLLM told of, and the true ones, beside the tokens of its answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.client.decoded import read, rings
from tests.real_vllm.runs import Run
from tests.real_vllm.traffic import Answer

from apportion.client import layout

_LISTENING: Final = re.compile(r"listening on (http://[\d.]+:\d+)")
_SERIES: Final = "apportion_engine_iterations_total"


class Tokens(NamedTuple):
    """How many tokens were computed: of prompts, and of answers but for their first ones."""

    prefill: int
    decode: int


def told(folder: Path) -> tuple[int, Tokens]:
    """Iterations in the rings of a vLLM that still runs, and the tokens in all of them."""
    fields = layout.ITERATION_FIELDS
    found = {
        (record["engine"], record[fields["index"]]): record
        for path in rings(folder)
        for record in read(path).records
        if record["kind"] == layout.KINDS["iteration"]
    }
    prefill, decode = (
        sum(record[fields[name]] for record in found.values())
        for name in ("prefill_tokens", "decode_tokens")
    )
    return len(found), Tokens(prefill, decode)


def answered(answers: Iterable[Answer]) -> Tokens:
    """What an engine had to compute for them."""
    answers = list(answers)
    return Tokens(
        sum(each.input_tokens - each.cached_input_tokens for each in answers),
        sum(each.output_tokens - 1 for each in answers),
    )


class TrueBatches(NamedTuple):
    """Sums of what the test's scheduler wrote down."""

    iterations: int
    tokens: int
    ahead: int
    """How many began before the one before them had ended."""

    @classmethod
    def of(cls, log: Path) -> TrueBatches:
        """From its file."""
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        tokens = sum(new for *_, batch in rows for _, new, _ in batch)
        ahead = sum(
            begun < ended
            for engine in {row[0] for row in rows}
            for (_, _, ended, _), (_, begun, *_) in pairwise(
                row for row in rows if row[0] == engine
            )
        )
        return cls(len(rows), tokens, ahead)


def differences(run: Run, answers: Iterable[Answer], folder: Path, true: TrueBatches) -> list[str]:
    """Whatever they say otherwise, in sentences. `folder` is the run's."""
    computed = answered(answers)
    faults: list[str] = []
    if true.tokens != sum(computed):
        faults.append(f"the true batches have {true.tokens} tokens, the answers {computed}")
    if run.is_async != (true.ahead > 0):
        faults.append(f"{true.ahead} of {true.iterations} iterations were scheduled ahead")
    iterations, tokens = told(folder / "rings")
    expected = (true.iterations, computed) if run.tells_iterations else (0, Tokens(0, 0))
    if (iterations, tokens) != expected:
        faults.append(f"iterations told of and their tokens: {iterations, tokens}, not {expected}")
    by_outcome = heard(folder / "agent.log")
    if by_outcome.get("in_time") != iterations or by_outcome.get("missing"):
        faults.append(f"{iterations} iterations in the rings, but the agent heard of {by_outcome}")
    return faults


def heard(agents_log: Path) -> dict[str, int]:
    """What the agent says that it heard of, by outcome."""
    found = _LISTENING.search(agents_log.read_text())
    if found is None:
        raise ValueError(f"{agents_log} does not say where the agent listens")
    text = httpx.get(f"{found[1]}/metrics", timeout=30.0).raise_for_status().text
    return {
        sample.labels["outcome"]: int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == _SERIES
    }
