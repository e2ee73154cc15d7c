"""Keys and values of prompt beginnings that were computed before, for the next prompt to reuse."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from torch import Tensor

from gpt import KeyValueCache

BLOCK_TOKENS: Final = 16


class PrefixCache:
    """The most recently used blocks of 16 tokens.

    A block's name is the whole prompt up to the block's end: what a token's keys and values are
    depends on all tokens before it, so nothing shorter would be the same thing.
    """

    def __init__(self, blocks: int) -> None:
        self._limit = blocks
        self._blocks: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()

    def restore(self, prompt: bytes, cache: KeyValueCache, row: int) -> int:
        """Copy the longest known beginning of `prompt` into a row; returns its length in tokens.

        At least the last token is left to compute: its logits are what comes next.
        """
        restored = 0
        for end in range(BLOCK_TOKENS, len(prompt), BLOCK_TOKENS):
            block = self._blocks.get(prompt[:end])
            if block is None:
                break
            self._blocks.move_to_end(prompt[:end])
            cache.write(row, restored, *block)
            restored = end
        return restored

    def remember(self, prompt: bytes, cache: KeyValueCache, row: int) -> None:
        """Keep the blocks of a prompt that was just computed in a row."""
        for end in range(BLOCK_TOKENS, len(prompt) + 1, BLOCK_TOKENS):
            if prompt[:end] not in self._blocks:
                self._blocks[prompt[:end]] = cache.read(row, end - BLOCK_TOKENS, end)
        while len(self._blocks) > self._limit:
            self._blocks.popitem(last=False)
