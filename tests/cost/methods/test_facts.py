"""Facts about models and devices: counted from sizes, and refused where they cannot be known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apportion.core.device_facts import DeviceFacts
from apportion.core.errors import ConfigError
from apportion.cost.methods.model_catalogue import known_models, named_model
from apportion.cost.methods.model_facts import ModelFacts

LLAMA_8B: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "torch_dtype": "bfloat16",
}
MIXTRAL: dict[str, object] = {
    **LLAMA_8B,
    "model_type": "mixtral",
    "vocab_size": 32_000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def config(folder: Path, values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


def test_parameters_are_counted_from_sizes(tmp_path: Path) -> None:
    """Llama-3.1-8B has 8.03 billion parameters and 131,072 bytes of keys and values a token."""
    facts = ModelFacts.from_config(config(tmp_path, LLAMA_8B))
    assert facts.total_parameters == facts.active_parameters == pytest.approx(8.03e9, rel=1e-3)
    assert facts.kv_bytes_per_token == 131_072


def test_a_mixture_activates_few_of_its_experts(tmp_path: Path) -> None:
    """Mixtral 8x7B: 46.7 billion in memory, 12.9 for each token, as its publisher says."""
    facts = ModelFacts.from_config(config(tmp_path, MIXTRAL))
    assert facts.total_parameters == pytest.approx(46.7e9, rel=2e-3)
    assert facts.active_parameters == pytest.approx(12.9e9, rel=5e-3)


@pytest.mark.parametrize(
    ("change", "per_parameter", "per_element"),
    [
        ({"torch_dtype": "float32"}, 4.0, 4.0),
        ({"quantization_config": {"quant_method": "fp8"}}, 1.0, 2.0),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, 0.5, 2.0),
    ],
)
def test_bytes_follow_type_and_quantisation(
    tmp_path: Path, change: dict[str, object], per_parameter: float, per_element: float
) -> None:
    """Weights may be smaller than keys and values."""
    facts = ModelFacts.from_config(config(tmp_path, {**LLAMA_8B, **change}))
    assert (facts.bytes_per_parameter, facts.bytes_per_kv_element) == (per_parameter, per_element)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no JSON object"),
        ({**LLAMA_8B, "model_type": "mamba"}, "model_type 'mamba' is not one of"),
        ({**LLAMA_8B, "hidden_size": -1}, "hidden_size is -1"),
        ({**LLAMA_8B, "vocab_size": None}, "vocab_size is None"),
        ({**LLAMA_8B, "torch_dtype": "int3"}, "torch_dtype 'int3'"),
        ({**LLAMA_8B, "quantization_config": {"quant_method": "x"}}, "names no `bits`"),
    ],
)
def test_a_config_that_says_too_little_is_refused(
    tmp_path: Path, values: object, message: str
) -> None:
    """Nothing is guessed from a config of an unknown kind."""
    path = config(tmp_path, values)
    with pytest.raises(ConfigError, match=message) as refusal:
        ModelFacts.from_config(path)
    assert str(path) in str(refusal.value)


def test_no_config(tmp_path: Path) -> None:
    """A missing or broken file is our own error."""
    (tmp_path / "config.json").write_text("{")
    for name in ("config.json", "absent.json"):
        with pytest.raises(ConfigError, match="cannot be read"):
            ModelFacts.from_config(tmp_path / name)


def test_known_models_are_found_by_any_spelling(tmp_path: Path) -> None:
    """The list and the counting agree, whatever the id looks like."""
    facts = ModelFacts.from_config(config(tmp_path, LLAMA_8B))
    for name in ("meta-llama/Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B", "llama-3.1-8b"):
        found = named_model(name)
        assert found is not None
        assert found.total_parameters == facts.total_parameters
    assert named_model("Llama-3.1-8B-Instruct-AWQ-INT4") is None
    assert all(named_model(name) is not None for name in known_models())


def test_a_device_is_known_by_nvmls_name() -> None:
    """fp8 is used where device and model have it; smaller weights are multiplied in 16 bits."""
    h100 = DeviceFacts.named("NVIDIA H100 80GB HBM3")
    a100 = DeviceFacts.named("NVIDIA A100-SXM4-80GB")
    assert h100 is not None
    assert a100 is not None
    assert [h100.flop_per_s_of(size) for size in (2.0, 1.0, 0.5)] == [989e12, 1979e12, 989e12]
    assert a100.flop_per_s_of(1.0) == a100.flop_per_s_of(2.0) == 312e12
    assert DeviceFacts.named("NVIDIA GeForce RTX 9999") is None
