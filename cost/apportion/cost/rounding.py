"""Dividing an integer amount exactly, whatever the order of those who share it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Column = NDArray[np.int64]
    Hashes = NDArray[np.uint64]
    Tie = Callable[[Column], Hashes]
    """The stable hashes of those whose keys are given: it decides between equal remainders."""

_SAFE_BITS: Final = 62
_ERROR_BITS: Final = 50
"""A quotient of float64 is off by less than one part in 2^50."""


def stable_hash(identity: str) -> int:
    """64 bits that depend on `identity` only: not on the process, platform or order."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big")


def mixed_hash(hashes: Hashes, numbers: Column) -> Hashes:
    """The stable hashes of things that are numbered within others (shape n, both).

    The finaliser of SplitMix64 over the owner's hash and the number: every bit of either
    changes half of the result.
    """
    mixed: Hashes = hashes + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def largest_remainder(amount: int, weights: Column, keys: Column, tie: Tie) -> Column:
    """Parts of `amount` (>= 0) in proportion to `weights` (>= 0), summing to it exactly.

    Each part is the floor of its quota; the units left over go to the largest remainders,
    equal remainders by `tie(keys)`, which is asked only where it decides something. With all
    weights zero everyone counts alike. Does not depend on the order of the columns.

    Raises:
        ValueError: there is something to share and nobody to share it.
    """
    if not weights.size:
        if amount:
            message = f"{amount} units with nobody to share them"
            raise ValueError(message)
        return np.zeros(0, np.int64)
    total = int(weights.sum(dtype=np.uint64))
    if total == 0:
        weights, total = np.ones_like(weights), weights.size
    parts, remainders = _quotas(amount, weights, total)
    left = amount - int(parts.sum())
    if left:
        threshold = np.partition(remainders, weights.size - left)[weights.size - left]
        above = remainders > threshold
        parts[above] += 1
        equal = np.flatnonzero(remainders == threshold)
        missing = left - int(np.count_nonzero(above))
        if missing < equal.size:
            equal = equal[np.argsort(tie(keys[equal]), kind="stable")]
        parts[equal[:missing]] += 1
    return parts


def divided(amount: int, weights: Sequence[int], hashes: Sequence[int]) -> list[int]:
    """`largest_remainder` for sums of any size and sign among a few: an amount, even below 0.

    `weights` are 0 or more, `hashes` the stable ones of those who share. A negative amount is
    divided as its opposite is.

    Raises:
        ValueError: as `largest_remainder`.
    """
    if not weights:
        if amount:
            message = f"{amount} units with nobody to share them"
            raise ValueError(message)
        return []
    total = sum(weights)
    if total == 0:
        weights, total = [1] * len(weights), len(weights)
    pairs = [divmod(abs(amount) * weight, total) for weight in weights]
    parts = [part for part, _ in pairs]
    left = abs(amount) - sum(parts)
    order = sorted(range(len(parts)), key=lambda index: (-pairs[index][1], hashes[index]))
    for index in order[:left]:
        parts[index] += 1
    return parts if amount >= 0 else [-part for part in parts]


def split_in_two(amounts: Column, first: Column, whole: Column) -> Column:
    """What of each amount (>= 0) goes to `first` out of `whole` (> 0), columns of shape n.

    Rounded by largest remainder, ties to the first.
    """
    limit = float(amounts.max(initial=0)) * float(whole.max(initial=0))
    if limit < float(1 << _SAFE_BITS):
        parts, remainders = np.divmod(amounts * first, whole)
    else:
        table = zip(amounts.tolist(), first.tolist(), whole.tolist(), strict=True)
        pairs = [divmod(amount * part, size) for amount, part, size in table]
        parts, remainders = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    parts[(remainders > 0) & (2 * remainders >= whole)] += 1
    return parts


def _quotas(amount: int, weights: Column, total: int) -> tuple[Column, Column]:
    """Floors of amount x weight / total, and what remains of each division."""
    if total * (4 + (amount >> (_ERROR_BITS - 2))) >= 1 << _SAFE_BITS:
        pairs = [divmod(amount * weight, total) for weight in weights.tolist()]
        table = np.array(pairs, dtype=object)
        return table[:, 0].astype(np.int64), _ranks(table[:, 1].tolist())
    # The estimate is off by so little that the true remainder fits 64 bits: it is what wraps
    # around to the same number.
    estimate = (weights * (amount / total)).astype(np.int64)
    with np.errstate(over="ignore"):
        remainders = weights * np.int64(amount) - estimate * np.int64(total)
    more, remainders = np.divmod(remainders, total)
    return estimate + more, remainders


def _ranks(remainders: list[int]) -> Column:
    """The order of numbers that need not fit 64 bits, equal ones alike."""
    order = {value: rank for rank, value in enumerate(sorted(set(remainders)))}
    return np.array([order[value] for value in remainders], dtype=np.int64)
