"""Models whose facts are known without their files: sizes from their published config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from apportion.core.errors import ConfigError
from apportion.cost.methods.model_facts import ModelFacts


class _Model(NamedTuple):
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tables: int = 2
    """2: the output layer has a table of its own; 1: it is the embedding's."""
    experts: int = 0
    per_token: int = 0


# The publishers' config.json on Hugging Face, read 2026-11. Keys are the end of their ids.
_KNOWN: Final = {
    "llama-3.2-1b": _Model(2048, 8192, 16, 32, 8, 64, 128_256, 1),
    "llama-3.2-3b": _Model(3072, 8192, 28, 24, 8, 128, 128_256, 1),
    "llama-3.1-8b": _Model(4096, 14_336, 32, 32, 8, 128, 128_256),
    "llama-3.1-70b": _Model(8192, 28_672, 80, 64, 8, 128, 128_256),
    "llama-3.3-70b": _Model(8192, 28_672, 80, 64, 8, 128, 128_256),
    "llama-3.1-405b": _Model(16_384, 53_248, 126, 128, 8, 128, 128_256),
    "llama-2-7b": _Model(4096, 11_008, 32, 32, 32, 128, 32_000),
    "mistral-7b": _Model(4096, 14_336, 32, 32, 8, 128, 32_000),
    "qwen2.5-7b": _Model(3584, 18_944, 28, 28, 4, 128, 152_064),
    "qwen2.5-32b": _Model(5120, 27_648, 64, 40, 8, 128, 152_064),
    "qwen2.5-72b": _Model(8192, 29_568, 80, 64, 8, 128, 152_064),
    "qwen3-8b": _Model(4096, 12_288, 36, 32, 8, 128, 151_936),
    "qwen3-32b": _Model(5120, 25_600, 64, 64, 8, 128, 151_936),
    "qwen3-30b-a3b": _Model(2048, 768, 48, 32, 4, 128, 151_936, 2, 128, 8),
    "mixtral-8x7b": _Model(4096, 14_336, 32, 32, 8, 128, 32_000, 2, 8, 2),
}
_SUFFIXES: Final = (
    "-instruct",
    "-chat",
    "-chat-hf",
    "-hf",
    "-it",
    "-v0.1",
    "-v0.2",
    "-v0.3",
    "-instruct-v0.1",
    "-instruct-v0.2",
    "-instruct-v0.3",
    "-instruct-2507",
)


def named_model(name: str) -> ModelFacts | None:
    """The facts of a model by the end of its id, in any case; None where they are not known.

    `meta-llama/Llama-3.1-8B-Instruct`, `Llama-3.1-8B` and `llama-3.1-8b` are the same. A name
    that says it is quantised is not known here: its bytes differ.
    """
    tail = name.strip().rpartition("/")[2].lower().removeprefix("meta-")
    for suffix in ("", *_SUFFIXES):
        base = tail.removesuffix(suffix) if suffix else tail
        model = _KNOWN.get(base)
        if model is not None:
            return _facts(base, model)
    return None


def model_facts(where: str) -> ModelFacts:
    """The facts that a person points at: the path of a `config.json`, or a known model's name.

    Raises:
        ConfigError: neither.
    """
    path = Path(where)
    if path.suffix == ".json" or path.is_file():
        return ModelFacts.from_config(path)
    model = named_model(where)
    if model is None:
        raise ConfigError(
            f"model {where!r} is not known ({', '.join(known_models())}); give its config.json"
        )
    return model


def known_models() -> tuple[str, ...]:
    """The names that `named_model` knows, for a message."""
    return tuple(sorted(_KNOWN))


def _facts(name: str, model: _Model) -> ModelFacts:
    attention = 2 * model.hidden * model.head_size * (model.heads + model.kv_heads)
    shared = model.tables * model.vocabulary * model.hidden
    shared += model.layers * (attention + model.hidden * model.experts)
    block = model.layers * 3 * model.hidden * model.intermediate
    active, total = (model.per_token, model.experts) if model.experts else (1, 1)
    return ModelFacts(
        name,
        shared + active * block,
        shared + total * block,
        model.layers,
        model.heads,
        model.kv_heads,
        model.head_size,
        model.experts,
        model.per_token,
        block if model.experts else 0,
    )
