"""Dividing an integer amount exactly, whatever the order of those who share it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

K = TypeVar("K")


def stable_hash(identity: str) -> int:
    """64 bits that depend on `identity` only: not on the process, platform or order."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big")


def largest_remainder(
    amount: int, weights: Sequence[int], keys: Sequence[K], tie: Callable[[K], int]
) -> list[int]:
    """Parts of `amount` (>= 0) in proportion to `weights` (>= 0), summing to it exactly.

    Each part is the floor of its quota; the units left over go to the largest remainders,
    equal remainders by `tie(key)`, which is asked only where it decides something. With all
    weights zero everyone counts alike.
    """
    if not weights:
        if amount:
            message = f"{amount} units with nobody to share them"
            raise ValueError(message)
        return []
    if len(weights) == 1:
        return [amount]
    total = sum(weights)
    if total == 0:
        weights, total = [1] * len(weights), len(weights)
    quotas = [amount * weight for weight in weights]
    parts = [quota // total for quota in quotas]
    left = amount - sum(parts)
    if left:
        remainders = [quota % total for quota in quotas]
        ranked = sorted(remainders, reverse=True)
        threshold = ranked[left - 1]
        above = [index for index, remainder in enumerate(remainders) if remainder > threshold]
        equal = [index for index, remainder in enumerate(remainders) if remainder == threshold]
        missing = left - len(above)
        if missing < len(equal):
            equal.sort(key=lambda index: tie(keys[index]))
        for index in above + equal[:missing]:
            parts[index] += 1
    return parts
