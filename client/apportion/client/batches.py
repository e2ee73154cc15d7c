"""How much is in a batch, by shapes alone: no value is read, so that no device is waited for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

_TOKENS: Final = "input_ids"
_DEEPEST: Final = 3


def shape_of(value: object) -> tuple[int, ...] | None:
    """The shape of a tensor, as plain ints; None of anything else."""
    shape: Any = getattr(value, "shape", None)
    return tuple(int(size) for size in shape) if isinstance(shape, tuple) and shape else None


def samples_in(batch: object) -> int | None:
    """The first dimension of the first tensor in a batch; None where there is none."""
    return next((shape[0] for shape in _shapes(batch, _DEEPEST)), None)


def tokens_in(batch: object) -> int | None:
    """Positions of `input_ids`, padding included; None where a batch has none."""
    found: object = batch.get(_TOKENS) if isinstance(batch, Mapping) else None
    shape = shape_of(found)
    return None if shape is None else math.prod(shape)


def _shapes(value: object, depth: int) -> Iterator[tuple[int, ...]]:
    shape = shape_of(value)
    if shape is not None:
        yield shape
    elif depth:
        parts: Any = value.values() if isinstance(value, Mapping) else value
        if isinstance(value, (Mapping, list, tuple)):
            for part in parts:
                yield from _shapes(part, depth - 1)
