"""Engines' texts in one vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.engine_tables import SGLANG, TABLES, VLLM
from apportion.collectors.engine_text import MOST_MODELS, OTHER, WANTED, EngineText
from apportion.collectors.engine_vocabulary import FAMILIES, VOCABULARY
from apportion.collectors.exposition_text import parse
from apportion.core.errors import SourceLost
from apportion.core.sample import Sample

HERE = Path(__file__).parent / "fixtures/engines"


def read(text: str, reader: EngineText | None = None) -> list[Sample]:
    return (reader or EngineText("node:8000")).samples(parse(text, WANTED))


def values(samples: list[Sample], name: str, **labels: str) -> list[float]:
    return [
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= dict(sample.labels).items()
    ]


def matched(samples: list[Sample]) -> dict[str, str]:
    """By word of the vocabulary: the engine's name for it, where it had a value."""
    return {
        labels["metric"]: labels["source_name"]
        for sample in samples
        if sample.name == "engine_metric_matched" and sample.value
        for labels in [dict(sample.labels)]
    }


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_golden(name: str) -> None:
    """Hand-written texts, every sample. The golden file is made by `python -m json.tool`."""
    plain: list[Any] = [
        {"name": sample.name, "value": sample.value, "labels": dict(sample.labels)}
        for sample in read((HERE / f"{name}.prom").read_text())
    ]
    assert json.loads((HERE / f"{name}.json").read_text()) == plain


def test_rows_of_one_model_are_added_up() -> None:
    """Ranks, replicas and tenants: counts are sums, the fullest cache counts."""
    samples = read((HERE / "vllm.prom").read_text())
    assert values(samples, "engine_requests_running", model="small-8b") == [7]
    assert values(samples, "engine_kv_usage_ratio") == [0.75]
    assert values(samples, "engine_tokens_total", token_type="input") == [1500]
    assert values(samples, "engine_tokens_total", token_type="cached_input") == [300]
    assert values(samples, "engine_time_to_first_token_seconds_count") == [7]
    assert values(samples, "engine_time_to_first_token_seconds_bucket", le="0.1") == [3]
    assert values(samples, "engine_requests_running", model="other-1b") == []


def test_a_percentage_is_no_ratio() -> None:
    """It is left out and counted: an alert on a full cache must not fire for it."""
    reader = EngineText("node:8000")
    text = 'vllm:kv_cache_usage_perc{model_name="m"} %s\nvllm:num_requests_running 1\n'
    for told, shown, refused in (("55", [], 1), ("NaN", [], 1), ("0.5", [0.5], 0), ("1", [1], 0)):
        samples = read(text % told, reader)
        assert values(samples, "engine_kv_usage_ratio") == shown
        assert values(samples, "engine_refused_values", engine="vllm") == [refused]
        assert ("kv_usage" in matched(samples)) is bool(shown)


def test_sums_of_parts_are_not_counted_twice() -> None:
    """SGLang's `total` is the sum of its other sources; idle time is no forward pass."""
    samples = read((HERE / "sglang.prom").read_text())
    assert values(samples, "engine_tokens_total", token_type="cached_input") == [40]
    phases = ("prefill", "decode", "rest")
    found = [values(samples, "engine_forward_seconds_total", phase=phase) for phase in phases]
    assert found == [[6.5], [63.0], [1.25]]
    only_total = 'sglang:cached_tokens_total{cache_source="total"} 40\n'
    assert values(read(only_total), "engine_tokens_total", token_type="cached_input") == [40]


def test_which_names_matched_is_a_metric() -> None:
    """One row a word; a metric that is declared and has no value is told from a missing one."""
    samples = read((HERE / "vllm.prom").read_text())
    rows = [each for each in samples if each.name == "engine_metric_matched"]
    assert [dict(each.labels)["metric"] for each in rows] == list(VOCABULARY)
    by_metric = {dict(each.labels)["metric"]: (each.value, dict(each.labels)) for each in rows}
    value, labels = by_metric["cached_input_tokens"]
    assert (value, labels["source_name"]) == (1, "vllm:prompt_tokens_cached_total")
    value, labels = by_metric["estimated_flops"]
    assert (value, labels["source_name"]) == (0, "vllm:estimated_flops_per_gpu_total")
    value, labels = by_metric["request_latency"]
    assert (value, "source_name" in labels) == (0, False)


def test_an_older_name_counts_where_the_newer_is_missing() -> None:
    """vLLM 0.10 and before."""
    old = (
        'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n'
        'vllm:gpu_prefix_cache_hits_total{model_name="m"} 7\n'
        'vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 3\n'
    )
    assert matched(read(old)) == {
        "kv_usage": "vllm:gpu_cache_usage_perc",
        "cached_input_tokens": "vllm:gpu_prefix_cache_hits_total",
        "inter_token_latency": "vllm:time_per_output_token_seconds",
    }


def test_names_are_matched_whole() -> None:
    """`prompt_tokens_by_source_total` begins like `prompt_tokens`, and `_created` is no count."""
    text = (
        'vllm:prompt_tokens_by_source_total{source="local_compute"} 5\n'
        "vllm:prompt_tokens_created 1.7e9\nvllm:prompt_tokens 5\n"
    )
    assert matched(read(text)) == {}


def test_several_engines_in_one_text() -> None:
    """As a front end of several re-exposes them."""
    samples = read("vllm:num_requests_running 1\ntgi_batch_current_size 2\n")
    assert values(samples, "engine_requests_running", engine="vllm") == [1]
    assert values(samples, "engine_requests_running", engine="tgi") == [2]


def test_a_text_of_something_else() -> None:
    """Says what was looked for."""
    with pytest.raises(SourceLost, match=r"node:8000: of 1 names none is of vllm, sglang"):
        read("process_cpu_seconds_total 1\n")


def test_models_are_bounded_and_never_move() -> None:
    """A model that was `other` stays there; one with its own series keeps it."""
    reader = EngineText("t")
    rows = [f'vllm:generation_tokens_total{{model_name="m{n}"}} 1\n' for n in range(30)]
    first = read("".join(rows), reader)
    assert len(values(first, "engine_tokens_total")) == MOST_MODELS + 1
    assert values(first, "engine_tokens_total", model=OTHER) == [30 - MOST_MODELS]
    again = read("".join(reversed(rows)), reader)
    assert values(again, "engine_tokens_total", model=OTHER) == [30 - MOST_MODELS]
    assert values(again, "engine_tokens_total", model="m0") == [1]


def test_a_hostile_model_name_is_one_short_line() -> None:
    """Whatever a server calls its model."""
    (sample,) = (
        each
        for each in read(
            'vllm:num_requests_running{model_name="a\\n\x1b[31m' + "x" * 500 + '"} 1\n'
        )
        if each.name == "engine_requests_running"
    )
    model = dict(sample.labels)["model"]
    assert model.isprintable()
    assert len(model) == 128


def test_every_table_uses_the_vocabulary() -> None:
    """A misspelt word would never match; every sample belongs to a declared family."""
    families = {family.name.removeprefix("apportion_") for family in FAMILIES}
    of_texts = {"engine_metric_matched", "engine_refused_values"}
    assert {word.family for word in VOCABULARY.values()} | of_texts == families
    for table in TABLES:
        assert set(table.sources) <= set(VOCABULARY), table.engine
        for sources in table.sources.values():
            assert all(
                source.name.startswith(table.prefixes) or table.engine == "triton-trtllm"
                for source in sources
            )
    assert len({table.engine for table in TABLES}) == len(TABLES)
    assert set(VLLM.sources) | set(SGLANG.sources) == set(VOCABULARY)


@given(st.text(st.sampled_from('vlm:nu_reqsti{}"=,le+Inf0123456789. \n\\'), max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No other error comes of it."""
    try:
        read(f"vllm:x 1\n{text}\n")
    except SourceLost:
        pytest.fail("a text with a name of vLLM is vLLM's")


PUBLISHED: dict[str, tuple[str, dict[str, float], set[str]]] = {
    "vllm-0.32.0-cpu.metrics.txt": (
        "vllm",
        {"input": 10723, "cached_input": 6272, "output": 3501},
        {"prefill_forward_time", "decode_forward_time", "other_forward_time"},
    ),
    "vllm_0.33.0_metrics_from_code.txt": (
        "vllm",
        {"input": 105752, "cached_input": 37056, "output": 3293},
        {"prefill_forward_time", "decode_forward_time", "other_forward_time"}
        | {"estimated_flops", "estimated_read_bytes", "estimated_written_bytes"},
    ),
    "sglang_0.5.23_metrics_from_code.txt": (
        "sglang",
        {"input": 213413, "cached_input": 70379, "output": 39387},
        {"prefill_request_time", "decode_request_time", "other_forward_time"}
        | {"estimated_flops", "estimated_read_bytes", "estimated_written_bytes"},
    ),
    "sglang_docs_production_metrics_sample.txt": (
        "sglang",
        {"input": 8128902, "output": 7557572},
        {"cached_input_tokens", "prefill_request_time", "decode_request_time"}
        | {"prefill_forward_time", "decode_forward_time", "other_forward_time"}
        | {"estimated_flops", "estimated_read_bytes", "estimated_written_bytes"},
    ),
    "tgi_3.x_metrics_from_code.txt": (
        "tgi",
        {"input": 28955, "output": 8732},
        {"cached_input_tokens", "kv_usage", "time_to_first_token", "other_forward_time"}
        | {"prefill_request_time", "decode_request_time"}
        | {"estimated_flops", "estimated_read_bytes", "estimated_written_bytes"},
    ),
    "triton_trtllm_backend_readme_metrics.txt": (
        "triton-trtllm",
        {},
        set(VOCABULARY) - {"requests_running", "requests_waiting", "kv_usage"},
    ),
    "llamacpp_b10298_metrics.txt": (
        "llama.cpp",
        {"input": 73163, "output": 7637},
        set(VOCABULARY)
        - {"input_tokens", "output_tokens", "prefill_request_time", "decode_request_time"},
    ),
}
"""By file: the engine, its tokens, and the words that it does not tell."""


def test_every_published_text(published: Path) -> None:
    """All engines: tokens as printed, what is missing named, histograms within their bound."""
    texts = {path.name: path.read_text() for path in (published / "engines").glob("*.txt")}
    assert set(texts) == set(PUBLISHED)
    for name, text in texts.items():
        engine, tokens, missing = PUBLISHED[name]
        samples = read(text)
        assert {dict(each.labels)["engine"] for each in samples} == {engine}, name
        assert {
            dict(each.labels)["token_type"]: each.value
            for each in samples
            if each.name == "engine_tokens_total"
        } == tokens, name
        assert set(VOCABULARY) - set(matched(samples)) == missing, name
        for word in VOCABULARY.values():
            if word.how == "histogram":
                counts = values(samples, f"{word.family}_bucket")
                assert len(counts) <= 24
                assert counts == sorted(counts)
                assert counts[-1:] == values(samples, f"{word.family}_count"), name
