"""A small byte-level GPT: the model that `train_gpt.py` trains and `serve_lm.py` serves.

About a million weights: five pre-norm transformer blocks of width 128 with four heads, learned
positions and an output layer that shares the embedding's weights. The tokens are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The model's sizes; the defaults make 1.05 million weights."""

    layers: int = 5
    heads: int = 4
    width: int = 128
    context: int = 256
    vocabulary: int = 256

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


def device_named(name: str) -> torch.device:
    """The device with torch's name; `auto` is a GPU where PyTorch can use one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class KeyValueCache:
    """Keys and values of up to `rows` sequences, each in a row of its own.

    `keys` and `values` are (layers, rows, heads, context, head width). A row is not cleared
    between sequences: what lies beyond a sequence's own positions is masked.
    """

    def __init__(self, shape: Shape, rows: int, device: torch.device) -> None:
        size = (shape.layers, rows, shape.heads, shape.context, shape.head_width)
        self.keys = torch.zeros(size, device=device)
        self.values = torch.zeros(size, device=device)

    def read(self, row: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Copies of one row's keys and values at positions [start, end).

        Both are (layers, heads, end - start, head width).
        """
        return self.keys[:, row, :, start:end].clone(), self.values[:, row, :, start:end].clone()

    def write(self, row: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Put into one row, from position `start`, what `read` gave."""
        end = start + keys.shape[2]
        self.keys[:, row, :, start:end] = keys
        self.values[:, row, :, start:end] = values


class Places:
    """Where the tokens of one cached forward pass stand: which row, and at which positions.

    `rows` is (batch), `positions` is (batch, tokens). `visible` is the attention mask, (batch, 1,
    tokens, longest): a token sees its own position in its row and all before it.
    """

    def __init__(self, cache: KeyValueCache, rows: Tensor, positions: Tensor) -> None:
        self.cache = cache
        self.rows = rows
        self.positions = positions
        self.longest = int(positions.max()) + 1
        known = torch.arange(self.longest, device=positions.device)
        self.visible = (known <= positions[:, :, None])[:, None]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values, and give back all that these rows hold.

        Both are (batch, heads, tokens, head width), with `longest` tokens on the way out.
        """
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        rows = self.rows[:, None]
        keys[rows, :, self.positions] = key.transpose(1, 2)
        values[rows, :, self.positions] = value.transpose(1, 2)
        return keys[self.rows, :, : self.longest], values[self.rows, :, : self.longest]


class Block(nn.Module):
    """One transformer block: attention, then a feed-forward layer, each behind a norm."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(shape.width)
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width)
        self.mix = nn.Linear(shape.width, shape.width)
        self.feed_norm = nn.LayerNorm(shape.width)
        self.widen = nn.Linear(shape.width, 4 * shape.width)
        self.narrow = nn.Linear(4 * shape.width, shape.width)

    def forward(self, hidden: Tensor, places: Places | None) -> Tensor:
        """(batch, tokens, width) in and out; with `places`, through the key-value cache."""
        batch, tokens, width = hidden.shape
        joined = self.query_key_value(self.attention_norm(hidden))
        joined = joined.view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        if places is None:
            attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            key, value = places.extend(self.layer, key, value)
            attended = functional.scaled_dot_product_attention(query, key, value, places.visible)
        mixed: Tensor = hidden + self.mix(attended.transpose(1, 2).reshape(hidden.shape))
        fed: Tensor = mixed + self.narrow(functional.gelu(self.widen(self.feed_norm(mixed))))
        return fed


class Gpt(nn.Module):
    """The model. Its weights depend on torch's seed alone."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.position = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        for weights in (self.embedding.weight, self.position.weight):
            nn.init.normal_(weights, std=0.02)

    def forward(self, tokens: Tensor, places: Places | None = None) -> Tensor:
        """Logits (batch, tokens, vocabulary) for (batch, tokens), at most the context long."""
        if places is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        else:
            positions = places.positions
        hidden = self.embedding(tokens) + self.position(positions)
        for block in self.blocks:
            hidden = block(hidden, places)
        return functional.linear(self.norm(hidden), self.embedding.weight)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of each next token of (batch, tokens + 1), in nats a token."""
        logits = self(tokens[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
