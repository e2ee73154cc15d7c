"""How much is in a batch, by shapes alone: no value is read, so that no device is waited for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

_TOKENS: Final = "input_ids"
_DEEPEST: Final = 3


def shape_of(value: object) -> tuple[int, ...] | None:
    """The shape of a tensor, as plain ints; None of anything else."""
    shape: object = getattr(value, "shape", None)
    if not isinstance(shape, tuple):
        return None
    return tuple(int(size) for size in cast("Iterable[Any]", shape)) or None


def samples_in(batch: object) -> int | None:
    """The first dimension of the first tensor in a batch; None where there is none."""
    return next((shape[0] for shape in _shapes(batch, _DEEPEST)), None)


def tokens_in(batch: object) -> int | None:
    """Positions of `input_ids`, padding included; None where a batch has none."""
    if not isinstance(batch, Mapping):
        return None
    shape = shape_of(cast("Mapping[object, object]", batch).get(_TOKENS))
    return None if shape is None else math.prod(shape)


def _shapes(value: object, depth: int) -> Iterator[tuple[int, ...]]:
    shape = shape_of(value)
    if shape is not None:
        yield shape
    elif depth:
        for part in _parts(value):
            yield from _shapes(part, depth - 1)


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return cast("Mapping[object, object]", value).values()
    return cast("Iterable[object]", value) if isinstance(value, (list, tuple)) else ()
