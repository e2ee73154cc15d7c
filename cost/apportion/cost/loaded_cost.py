"""Loaded cost: direct cost and a stated share of what its workload needs beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.category import Category
from apportion.cost.rounding import divided, stable_hash

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from apportion.cost.report_rows import Key

POOLED: Final = frozenset(
    {
        Category.STARTUP,
        Category.BETWEEN_STEPS,
        Category.CHECKPOINT,
        Category.EVALUATION,
        Category.ALLOCATED_IDLE,
    }
)
"""What is shared. Cost that was lost, or of what no span is known, stays a line of its own."""


class Loading(str, Enum):
    """How a workload's pool goes to its rows with direct cost; OpenCost's words."""

    NONE = "none"
    """It stays where it is: loaded is direct."""
    WEIGHTED = "weighted"
    """In proportion to their direct cost."""
    EVEN = "even"
    """To each alike."""


class WorkloadCost(NamedTuple):
    """What one category cost for a report's key within one workload; None: it has no price.

    `workload` also names its day or hour where a report is by them: each has a pool of its own.
    """

    workload: Hashable
    key: Key
    category: Category
    units: int | None


class Loaded(NamedTuple):
    """Loaded units by key, of those that have direct cost, and what no row could take.

    All loaded units and `unshared` are all direct cost and all pools, to the unit.
    """

    units: dict[Key, int]
    unshared: int


def loaded_cost(costs: Iterable[WorkloadCost], loading: Loading) -> Loaded:
    """Each workload's pool divided among its own rows: largest remainder, ties by the key."""
    direct: dict[Hashable, dict[Key, int]] = defaultdict(dict)
    pools: dict[Hashable, int] = defaultdict(int)
    for workload, key, category, units in costs:
        if units is None:
            continue
        if category is Category.DIRECT:
            direct[workload][key] = direct[workload].get(key, 0) + units
        elif category in POOLED:
            pools[workload] += units
    found: dict[Key, int] = defaultdict(int)
    unshared = 0
    for workload in {**direct, **pools}:
        rows, pool = direct[workload], pools[workload]
        shares = dict.fromkeys(rows, 0)
        if not rows or loading is Loading.NONE:
            unshared += pool
        else:
            even = loading is Loading.EVEN
            # A sum may be below 0 for a while: of moves that a new price has not followed yet.
            weights = [1 if even else max(0, units) for units in rows.values()]
            hashes = [stable_hash(json.dumps(key)) for key in rows]
            shares = dict(zip(rows, divided(pool, weights, hashes), strict=True))
        for key, units in rows.items():
            found[key] += units + shares[key]
    return Loaded(dict(found), unshared)
