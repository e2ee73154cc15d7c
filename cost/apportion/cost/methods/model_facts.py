"""What a model's forward pass costs a device, from its sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from apportion.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES: Final = 1 << 20
_BYTES_OF_TYPE: Final = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
}
_DENSE: Final = frozenset({"llama", "mistral", "qwen2", "qwen3", "phi3"})
_EXPERTS: Final = {"mixtral": "num_local_experts", "qwen3_moe": "num_experts"}
_BITS_OF_METHOD: Final = {"fp8": 8, "compressed-tensors": 8, "bitsandbytes": 8}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A decoder-only transformer as a roofline sees it.

    `active_parameters` multiply each token; `total_parameters` are all that memory holds.
    `expert_parameters` are those of one expert in all layers; a dense model has no experts.
    `bytes_per_parameter` is 2 for bfloat16, 1 for fp8, 0.5 for 4 bits.
    """

    name: str
    active_parameters: int
    total_parameters: int
    layers: int
    attention_heads: int
    kv_heads: int
    head_size: int
    experts: int = 0
    experts_per_token: int = 0
    expert_parameters: int = 0
    bytes_per_parameter: float = 2.0
    bytes_per_kv_element: float = 2.0

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.bytes_per_kv_element

    @classmethod
    def from_config(cls, path: Path) -> ModelFacts:
        """The facts in a Hugging Face `config.json`; parameters are counted from its sizes.

        Norms and biases, a thousandth together, are left out. A quantised model's own bytes are
        taken; its keys and values keep the type of its activations.

        Raises:
            ConfigError: no such file, not a model's config, or of an architecture that is not
                known here; it names what to give instead.
        """
        try:
            content = path.read_bytes()[: MAX_BYTES + 1]
            config = json.loads(content)
        except (OSError, ValueError, RecursionError) as failure:
            raise ConfigError(
                f"cannot be read as a model's config.json: {failure}", path=path
            ) from failure
        if not isinstance(config, dict):
            raise ConfigError("is not a model's config.json: no JSON object", path=path)
        return _Sizes(cast("Mapping[str, object]", config), path).facts()


class _Sizes:
    """Reads the sizes that parameters are counted from."""

    def __init__(self, config: Mapping[str, object], path: Path) -> None:
        self._config = config
        self._path = path

    def facts(self) -> ModelFacts:
        kind = self._config.get("model_type")
        if kind not in _DENSE and kind not in _EXPERTS:
            known = ", ".join(sorted((*_DENSE, *_EXPERTS)))
            raise ConfigError(
                f"model_type {kind!r} is not one of {known}; give the model's facts as numbers",
                path=self._path,
            )
        hidden, layers = self._size("hidden_size"), self._size("num_hidden_layers")
        heads = self._size("num_attention_heads")
        kv_heads = self._size("num_key_value_heads", heads)
        head_size = self._size("head_dim", hidden // heads)
        tables = 1 if self._config.get("tie_word_embeddings") is True else 2
        shared = tables * self._size("vocab_size") * hidden
        shared += layers * 2 * hidden * head_size * (heads + kv_heads)
        if kind in _DENSE:
            shared += layers * 3 * hidden * self._size("intermediate_size")
            experts = per_token = expert = 0
        else:
            experts = self._size(_EXPERTS[str(kind)])
            per_token = self._size("num_experts_per_tok")
            width = self._size("moe_intermediate_size", self._config.get("intermediate_size"))
            expert = layers * 3 * hidden * width
            shared += layers * hidden * experts
        name = self._config.get("_name_or_path")
        return ModelFacts(
            name if isinstance(name, str) and name else self._path.parent.name,
            shared + per_token * expert,
            shared + experts * expert,
            layers,
            heads,
            kv_heads,
            head_size,
            experts,
            per_token,
            expert,
            self._bytes_per_parameter(),
            self._bytes_of_type(),
        )

    def _bytes_per_parameter(self) -> float:
        found = self._config.get("quantization_config")
        if not isinstance(found, Mapping):
            return self._bytes_of_type()
        quantised = cast("Mapping[str, object]", found)
        bits = quantised.get("bits", _BITS_OF_METHOD.get(str(quantised.get("quant_method"))))
        if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 32:
            raise ConfigError(
                "quantization_config names no `bits`; give bytes_per_parameter", path=self._path
            )
        return bits / 8

    def _bytes_of_type(self) -> float:
        name = str(self._config.get("torch_dtype", self._config.get("dtype", "bfloat16")))
        size = _BYTES_OF_TYPE.get(name.removeprefix("torch."))
        if size is None:
            known = ", ".join(_BYTES_OF_TYPE)
            raise ConfigError(f"torch_dtype {name!r} is not one of {known}", path=self._path)
        return size

    def _size(self, name: str, default: object = None) -> int:
        value = self._config.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 40:
            raise ConfigError(
                f"{name} is {value!r}, not a size; a {self._config.get('model_type')} has one",
                path=self._path,
            )
        return value
