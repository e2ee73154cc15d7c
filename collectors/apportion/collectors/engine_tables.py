"""Which engine calls what by which name. Another engine, or a new version, is data here.

For each word of the vocabulary the names are tried in order, the newest first; the first one that
has a row counts. Names were read from vLLM 0.32 and 0.33 (0.11 and older as fallbacks), SGLang 0.4
and 0.5, TGI 3, the TensorRT-LLM backend of Triton, trtllm-serve and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

Labels = Mapping[str, tuple[str, ...]]
_ANY: Final[Labels] = {}


class Source(NamedTuple):
    """A raw name; of its rows those with labels in `only` and not in `but`, times `scale`.

    A row that lacks a label of `only` does not count; of a histogram `name` is the family's.
    """

    name: str
    only: Labels = _ANY
    but: Labels = _ANY
    scale: float = 1


@dataclass(frozen=True, slots=True)
class EngineTable:
    """One engine: what its names begin with, its label for the model, and its names by word."""

    engine: str
    prefixes: tuple[str, ...]
    model_label: str
    sources: Mapping[str, tuple[Source, ...]]


def _named(*names: str) -> tuple[Source, ...]:
    return tuple(Source(name) for name in names)


VLLM: Final = EngineTable(
    "vllm",
    ("vllm:",),
    "model_name",
    {
        "requests_running": _named("vllm:num_requests_running"),
        "requests_waiting": _named("vllm:num_requests_waiting"),
        "input_tokens": _named("vllm:prompt_tokens_total"),
        "cached_input_tokens": _named(
            "vllm:prompt_tokens_cached_total",
            "vllm:prefix_cache_hits_total",
            "vllm:gpu_prefix_cache_hits_total",
        ),
        "output_tokens": _named("vllm:generation_tokens_total"),
        "kv_usage": _named("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "time_to_first_token": _named("vllm:time_to_first_token_seconds"),
        "inter_token_latency": _named(
            "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"
        ),
        "request_latency": _named("vllm:e2e_request_latency_seconds"),
        "prefill_request_time": _named("vllm:request_prefill_time_seconds_sum"),
        "decode_request_time": _named("vllm:request_decode_time_seconds_sum"),
        "estimated_flops": _named("vllm:estimated_flops_per_gpu_total"),
        "estimated_read_bytes": _named("vllm:estimated_read_bytes_per_gpu_total"),
        "estimated_written_bytes": _named("vllm:estimated_write_bytes_per_gpu_total"),
    },
)

_SGLANG_PREFILL: Final = ("extend", "split_prefill")
_SGLANG_DECODE: Final = ("decode", "target_verify")
_SGLANG_CACHED: Final = "sglang:cached_tokens_total"
_SGLANG_FORWARD: Final = "sglang:forward_execution_seconds_total"

SGLANG: Final = EngineTable(
    "sglang",
    ("sglang:",),
    "model_name",
    {
        "requests_running": _named("sglang:num_running_reqs"),
        "requests_waiting": _named("sglang:num_queue_reqs"),
        "input_tokens": _named("sglang:prompt_tokens_total"),
        "cached_input_tokens": (
            # `total` is the sum of the others where both are there
            Source(_SGLANG_CACHED, but={"cache_source": ("total",)}),
            Source(_SGLANG_CACHED),
            Source("sglang:realtime_tokens_total", only={"mode": ("prefill_cache",)}),
        ),
        "output_tokens": _named("sglang:generation_tokens_total"),
        "kv_usage": _named("sglang:token_usage"),
        "time_to_first_token": _named("sglang:time_to_first_token_seconds"),
        "inter_token_latency": _named(
            "sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"
        ),
        "request_latency": _named("sglang:e2e_request_latency_seconds"),
        "prefill_forward_time": (Source(_SGLANG_FORWARD, only={"category": _SGLANG_PREFILL}),),
        "decode_forward_time": (Source(_SGLANG_FORWARD, only={"category": _SGLANG_DECODE}),),
        "other_forward_time": (
            Source(
                _SGLANG_FORWARD,
                but={"category": (*_SGLANG_PREFILL, *_SGLANG_DECODE, "idle")},
            ),
        ),
        "estimated_flops": _named("sglang:estimated_flops_per_gpu_total"),
        "estimated_read_bytes": _named("sglang:estimated_read_bytes_per_gpu_total"),
        "estimated_written_bytes": _named("sglang:estimated_write_bytes_per_gpu_total"),
    },
)

TGI: Final = EngineTable(
    "tgi",
    ("tgi_",),
    "model",
    {
        "requests_running": _named("tgi_batch_current_size"),
        "requests_waiting": _named("tgi_queue_size"),
        "input_tokens": _named("tgi_request_input_length_sum"),
        "output_tokens": _named("tgi_request_generated_tokens_sum"),
        "inter_token_latency": _named("tgi_request_mean_time_per_token_duration"),
        "request_latency": _named("tgi_request_duration"),
        "prefill_forward_time": (
            Source("tgi_batch_forward_duration_sum", only={"method": ("prefill",)}),
        ),
        "decode_forward_time": (
            Source("tgi_batch_forward_duration_sum", only={"method": ("decode",)}),
        ),
    },
)

_TRITON_REQUESTS: Final = "nv_trt_llm_request_metrics"

TRITON: Final = EngineTable(
    "triton-trtllm",
    ("nv_trt_llm_",),
    "model",
    {
        "requests_running": (Source(_TRITON_REQUESTS, only={"request_type": ("scheduled",)}),),
        "requests_waiting": (Source(_TRITON_REQUESTS, only={"request_type": ("waiting",)}),),
        "input_tokens": _named("nv_llm_input_token_len_sum"),
        "output_tokens": _named("nv_llm_output_token_len_sum"),
        "kv_usage": (
            Source(
                "nv_trt_llm_kv_cache_block_metrics", only={"kv_cache_block_type": ("fraction",)}
            ),
        ),
        "time_to_first_token": (Source("nv_inference_first_response_histogram_ms", scale=0.001),),
    },
)

TRTLLM: Final = EngineTable(
    "trtllm-serve",
    ("trtllm_",),
    "model_name",
    {
        "requests_running": _named("trtllm_num_requests_running"),
        "requests_waiting": _named("trtllm_num_requests_waiting"),
        "input_tokens": _named("trtllm_prompt_tokens_total"),
        "cached_input_tokens": _named("trtllm_prompt_cached_tokens_total"),
        "output_tokens": _named("trtllm_generation_tokens_total"),
        "kv_usage": _named("trtllm_kv_cache_utilization"),
        "time_to_first_token": _named("trtllm_time_to_first_token_seconds"),
        "inter_token_latency": _named("trtllm_time_per_output_token_seconds"),
        "request_latency": _named("trtllm_e2e_request_latency_seconds"),
        "prefill_request_time": _named("trtllm_request_prefill_time_seconds_sum"),
        "decode_request_time": _named("trtllm_request_decode_time_seconds_sum"),
    },
)

LLAMA_CPP: Final = EngineTable(
    "llama.cpp",
    ("llamacpp:",),
    "model",
    {
        "requests_running": _named("llamacpp:requests_processing"),
        "requests_waiting": _named("llamacpp:requests_deferred"),
        "input_tokens": _named("llamacpp:prompt_tokens_total"),
        "output_tokens": _named("llamacpp:tokens_predicted_total"),
        "kv_usage": _named("llamacpp:kv_cache_usage_ratio"),
        "prefill_request_time": _named("llamacpp:prompt_seconds_total"),
        "decode_request_time": _named("llamacpp:tokens_predicted_seconds_total"),
    },
)

TABLES: Final = (VLLM, SGLANG, TGI, TRITON, TRTLLM, LLAMA_CPP)
