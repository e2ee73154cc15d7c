"""What every engine is asked for, in one vocabulary, and the metric families it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from apportion.core.family import Family, Kind

How = Literal["sum", "largest", "histogram"]
"""How the rows of one model (its ranks, replicas, tenants) become one value."""


@dataclass(frozen=True, slots=True)
class Word:
    """One thing that an engine may tell: a family with these labels, made in this way."""

    family: str
    how: How = "sum"
    labels: tuple[tuple[str, str], ...] = ()


VOCABULARY: Final = {
    "requests_running": Word("engine_requests_running"),
    "requests_waiting": Word("engine_requests_waiting"),
    "input_tokens": Word("engine_tokens_total", labels=(("token_type", "input"),)),
    "cached_input_tokens": Word("engine_tokens_total", labels=(("token_type", "cached_input"),)),
    "output_tokens": Word("engine_tokens_total", labels=(("token_type", "output"),)),
    "kv_usage": Word("engine_kv_usage_ratio", "largest"),
    "time_to_first_token": Word("engine_time_to_first_token_seconds", "histogram"),
    "inter_token_latency": Word("engine_inter_token_latency_seconds", "histogram"),
    "request_latency": Word("engine_request_latency_seconds", "histogram"),
    "prefill_request_time": Word("engine_request_seconds_total", labels=(("phase", "prefill"),)),
    "decode_request_time": Word("engine_request_seconds_total", labels=(("phase", "decode"),)),
    "prefill_forward_time": Word("engine_forward_seconds_total", labels=(("phase", "prefill"),)),
    "decode_forward_time": Word("engine_forward_seconds_total", labels=(("phase", "decode"),)),
    "other_forward_time": Word("engine_forward_seconds_total", labels=(("phase", "rest"),)),
    "estimated_flops": Word("engine_estimated_flops_total"),
    "estimated_read_bytes": Word("engine_estimated_bytes_total", labels=(("direction", "read"),)),
    "estimated_written_bytes": Word(
        "engine_estimated_bytes_total", labels=(("direction", "write"),)
    ),
}

PLACE: Final = ("target", "engine")
_MODEL: Final = (*PLACE, "model")


def _of_model(name: str, kind: Kind, unit: str, text: str, *labels: str) -> Family:
    return Family(f"apportion_engine_{name}", kind, unit, (*_MODEL, *labels), text, "engines")


FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_engine_metric_matched",
        "gauge",
        "boolean",
        (*PLACE, "metric", "source_name"),
        "Whether the engine's text has a value for a metric of the vocabulary, and under which "
        "name. 0 with a name: the engine has the metric and says nothing.",
        "engines",
    ),
    Family(
        "apportion_engine_refused_values",
        "gauge",
        "values",
        PLACE,
        "Values of the last text that cannot be, and are left out: not finite, below 0, or a "
        "ratio above 1, as where a percentage is given for it.",
        "engines",
    ),
    _of_model("requests_running", "gauge", "requests", "Requests that the engine works on."),
    _of_model("requests_waiting", "gauge", "requests", "Requests that wait to be scheduled."),
    _of_model(
        "tokens_total",
        "counter",
        "tokens",
        "Tokens as the engine counts them. input includes cached_input.",
        "token_type",
    ),
    _of_model("kv_usage_ratio", "gauge", "ratio", "Share of the KV cache that is in use."),
    _of_model(
        "time_to_first_token_seconds",
        "histogram",
        "seconds",
        "From a request's arrival to its first token.",
    ),
    _of_model(
        "inter_token_latency_seconds",
        "histogram",
        "seconds",
        "Between two output tokens; source_name tells engines that give a mean per request.",
    ),
    _of_model(
        "request_latency_seconds",
        "histogram",
        "seconds",
        "From a request's arrival to its end.",
    ),
    _of_model(
        "request_seconds_total",
        "counter",
        "seconds",
        "Time that requests spent in a phase, added up over requests: a batch of n counts n times.",
        "phase",
    ),
    _of_model(
        "forward_seconds_total",
        "counter",
        "seconds",
        "Time of the engine's forward passes by phase: a batch counts once.",
        "phase",
    ),
    _of_model(
        "estimated_flops_total",
        "counter",
        "operations",
        "The engine's own estimate of its floating-point operations, per device.",
    ),
    _of_model(
        "estimated_bytes_total",
        "counter",
        "bytes",
        "The engine's own estimate of bytes read and written in device memory, per device.",
        "direction",
    ),
)
