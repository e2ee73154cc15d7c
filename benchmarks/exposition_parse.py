"""Reading another program's text of metrics, beside prometheus_client's parser on the same text.

The text is one that an inference engine of this size would show: 400 samples, most of them buckets
of histograms, for two models. `wanted` is what the `engines` collector keeps of it. Times are
medians of interleaved rounds, by the wall clock, in one process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from apportion.collectors.engine_text import WANTED
from apportion.collectors.exposition_text import parse

ROUNDS = 31
MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "an-adapter")
BOUNDS = tuple(0.001 * 1.5**power for power in range(22))
HISTOGRAMS = (
    *("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"),
    *("request_queue_time_seconds", "request_prompt_tokens", "request_generation_tokens"),
    *("request_prefill_time_seconds", "request_decode_time_seconds"),
)


def run() -> dict[str, object]:
    """Milliseconds and ratios."""
    text = _text()
    samples = sum(map(len, parse(text).samples.values()))
    rounds: dict[str, list[float]] = {"all": [], "wanted": [], "peer": []}
    for _ in range(ROUNDS):
        rounds["all"].append(_ms(lambda: parse(text)))
        rounds["wanted"].append(_ms(lambda: parse(text, WANTED)))
        rounds["peer"].append(_ms(lambda: list(text_string_to_metric_families(text))))
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    return {
        "samples": samples,
        "bytes": len(text),
        "every sample ms": medians["all"],
        "what engines keep ms": medians["wanted"],
        "prometheus_client ms": medians["peer"],
        "every sample / prometheus_client": medians["all"] / medians["peer"],
    }


def _text() -> str:
    lines: list[str] = []
    for number, name in enumerate(HISTOGRAMS):
        lines += [f"# HELP vllm:{name} A histogram.", f"# TYPE vllm:{name} histogram"]
        for model in MODELS:
            labels = f'engine="0",model_name="{model}"'
            lines += [
                f'vllm:{name}_bucket{{engine="0",le="{bound!r}",model_name="{model}"}} {place}.0'
                for place, bound in enumerate((*BOUNDS, float("inf")))
            ]
            lines.append(f"vllm:{name}_count{{{labels}}} {len(BOUNDS)}.0")
            lines.append(f"vllm:{name}_sum{{{labels}}} {number}.123456789")
    return "\n".join([*lines, ""])


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1_000
