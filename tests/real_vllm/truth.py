"""How much of the busy cost a ledger has with other requests than the true batches say."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests.agent.pipeline.engines_oracle import EngineRun, seconds_by_engine
from tests.faults.book import Book
from tests.real_vllm.comparison import Span, callers_id
from tests.real_vllm.programs import HOST_CPU
from tests.real_vllm.traffic import Answer

from apportion.core.category import Category
from apportion.cost.methods.model_facts import ModelFacts
from apportion.cost.methods.names import Method
from apportion.cost.methods.roofline import Roofline
from apportion.cost.methods.shares import Busy
from apportion.cost.methods.trace import Iterations, Trace
from apportion.cost.methods.windows import roofline_windows
from apportion.cost.replay.iterations_file import BatchRow, Member
from apportion.cost.replay.requests_file import RequestRow

MOST_MOVED: Final = {
    Method.ROOFLINE_TWO_PART: 0.01,
    Method.ROOFLINE_COUNTS: 0.01,
    Method.ROOFLINE_WINDOWS: 0.02,
}
LEAST_BY_METHOD: Final = 0.99
"""What is learnt late moves by windows in any case."""
_INTERNAL: Final = re.compile(r"-[0-9a-f]{8}$")
_CHARGED: Final = """
    select request_id, method_key, sum(units), sum(abs(units)) from (
        select agent_id, ring_key, number, method_key, units from charge where category = ?
        union all
        select agent_id, ring_key, number, method_key, units from accrual where category = ?)
    join span using (agent_id, ring_key, number) group by 1, 2
"""


def compared(
    book: Book, found: list[Span], told: Iterable[Answer], batches: Path, config: Path
) -> dict[str, Any]:
    """Figures of the requests `found` in a ledger; `config` is the model's.

    The tokens are those that their callers were told.
    """
    roofline = Roofline.of(ModelFacts.from_config(config), HOST_CPU)
    (anchor_ns,) = book.rows("select anchor_ns from boot")[0]
    answers = {answer.request_id: answer for answer in told}
    asked = [_request(span, answers[callers_id(span.request_id, answers)]) for span in found]
    by_name = {row.request_id: row for row in asked}
    lines = [json.loads(line) for line in batches.read_text().splitlines()]
    runs: list[EngineRun] = []
    for engine in sorted({line[0] for line in lines}):
        rows = [_row(line, anchor_ns, answers) for line in lines if line[0] == engine]
        names = {member.request_id for row in rows for member in row.batch}
        own = Trace.of([by_name[name] for name in sorted(names)])
        runs.append(EngineRun(own, Iterations.of(sorted(rows), own)))
    true_s: Counter[str] = Counter()
    for run, seconds in zip(runs, seconds_by_engine(runs, roofline), strict=True):
        for name, amount in zip(run.trace.request_id, seconds.tolist(), strict=True):
            true_s[name] += amount
    trace = Trace.of(asked)
    true = np.array([true_s[name] for name in trace.request_id])
    units: Counter[str] = Counter()
    methods: Counter[str] = Counter()
    for name, method, amount, size in book.rows(_CHARGED, *[int(Category.DIRECT)] * 2):
        units[callers_id(name, answers)] += amount
        methods[Method(method).label] += size
    charged = np.array([units[name] for name in trace.request_id], dtype=np.float64)
    each = [run.iterations for run in runs]
    took_ns = sum(Busy.of(one.start_ns, one.end_ns).total_ns for one in each)
    busy_ns = sum(Busy.of(run.trace.start_ns, run.trace.finish_ns).total_ns for run in runs)
    return {
        "requests_by_engine": [run.trace.size for run in runs],
        "units_by_method": dict(methods),
        "moved": _moved(charged, true),
        "moved_by_a_replay_of_the_windows": _moved(roofline_windows(trace, roofline).seconds, true),
        "moved_by_request_seconds": _moved(
            (trace.finish_ns - trace.start_ns).astype(np.float64), true
        ),
        "moved_by_tokens": _moved(
            (trace.computed_tokens + trace.output_tokens).astype(np.float64), true
        ),
        "in_flight_between_iterations": round(max(0.0, 1 - took_ns / busy_ns), 4),
    }


def too_far(figures: dict[str, Any], method: Method | None) -> list[str]:
    """What is wrong with them: another method than expected, or too much with others."""
    faults: list[str] = []
    if method is None:
        return faults
    by_method = figures["units_by_method"]
    if by_method.get(method.label, 0) < LEAST_BY_METHOD * sum(by_method.values()):
        faults.append(f"settled by {by_method}, not by {method.label}")
    if figures["moved"] > MOST_MOVED[method]:
        faults.append(f"{figures['moved']:.2%} of the cost is with other requests than it should")
    return faults


def _moved(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """The part of the whole that has to change its owner to make one of the other."""
    difference = np.abs(one / one.sum() - other / other.sum()).sum() / 2
    return round(float(difference), 5)


def _row(line: list[Any], anchor_ns: int, names: Container[str]) -> BatchRow:
    _, begun_ns, end_ns, batch = line
    members = sorted(
        Member(callers_id(_INTERNAL.sub("", name), names), tokens, context)
        for name, tokens, context in batch
    )
    return BatchRow(0, begun_ns + anchor_ns, end_ns + anchor_ns, tuple(members))


def _request(span: Span, answer: Answer) -> RequestRow:
    return RequestRow(
        answer.request_id,
        span.scheduled_ns or span.start_ns,
        span.first_token_ns,
        span.end_ns,
        answer.input_tokens,
        answer.cached_input_tokens,
        answer.output_tokens,
        answer.tenant,
    )
