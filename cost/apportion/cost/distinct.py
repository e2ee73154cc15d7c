"""Distinct values of a column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[np.int64]


def distinct(values: Column) -> Column:
    """The distinct `values` (shape n, any order), ascending.

    As `np.unique` gives them, which fills a hash table first and takes several times as long.
    """
    ordered = np.sort(values)
    is_new = np.ones(ordered.size, np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return ordered[is_new]
