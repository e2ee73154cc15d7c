"""Makes a tiny Llama that vLLM can serve: `python model.py FOLDER`, in vLLM's environment.

Its weights are random (`--load-format dummy`); its tokenizer is trained on the spot, on words that
are made up. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path
from typing import Any, Final

WORDS: Final = 2_000
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
CONFIG: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def words() -> list[str]:
    """The made-up words, the same at each call."""
    source = random.Random(7)
    return ["".join(source.choices(LETTERS, k=source.randint(2, 9))) for _ in range(WORDS)]


def make(folder: Path) -> None:
    """Write configuration and tokenizer."""
    library: Any = importlib.import_module("tokenizers")  # only vLLM's environment has it
    by_bytes = library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = by_bytes(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=2_048,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=by_bytes.alphabet(),
    )
    tokenizer.train_from_iterator([" ".join(words())] * 4, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "model_max_length": 2_048,
        "chat_template": "{% for each in messages %}{{ each['content'] }} {% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    config = {**CONFIG, "vocab_size": tokenizer.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
