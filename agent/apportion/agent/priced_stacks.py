"""Stacks weighed by what the ledger says they cost: the root is its amount, to the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import ge
from types import MappingProxyType
from typing import Final

import numpy as np

from apportion.agent.sample_spans import CATEGORY
from apportion.core.category import Category
from apportion.core.errors import ConfigError
from apportion.cost.cost_by_category import NOTHING_SPENT, CostByCategory
from apportion.cost.quantity import Quantity
from apportion.cost.rounding import divided, stable_hash
from apportion.profiles.device_trace import Ints
from apportion.profiles.rank_stacks import STEP
from apportion.profiles.stacks import StackColumns, Stacks
from apportion.profiles.weight import COUNT, ENERGY, LARGEST, TIME, Weight, cost

NOBODY: Final = "[nobody]"
"""The frame of what no workload caused."""
NO_STEPS: Final[Mapping[int, Quantity]] = MappingProxyType({})


def priced(
    stacks: Stacks,
    spent: CostByCategory,
    of_step: Mapping[int, Quantity] = NO_STEPS,
) -> Stacks:
    """`stacks` below a frame `[direct]`, and a frame beside it for each other category.

    What is direct (device time, money, energy) is divided among the stacks by what they weigh so
    far, by largest remainder, ties by the stack's own text: no sum differs from the ledger's, and
    the result does not depend on any order. A weight that the ledger has none of is left out, and
    so is energy where some category has less than none of it.
    Samples that say in which category they were taken stand below that one; those that were in no
    span stand nowhere, because nobody knows which category they are of.

    of_step: what is direct of single steps, and part of `spent`. It goes to the stacks with the
    label of the step; what no step's stacks have is divided among all.

    Raises:
        ConfigError: the ledger has nothing of it, or a category that costs less than nothing.
    """
    return _priced(stacks, spent, _weights(spent), of_step)


def priced_whole(
    profiles: Mapping[str, Stacks], spent: Mapping[str | None, CostByCategory]
) -> Stacks:
    """A frame for each workload that the ledger knows, with its own stacks where there are some.

    Raises:
        ConfigError: as `priced`; or a profile is of a workload that cost nothing.
    """
    strangers = sorted(set(profiles).difference(name for name in spent if name is not None))
    if strangers:
        known = ", ".join(sorted(name for name in spent if name is not None))
        raise ConfigError(f"no cost of workload {strangers[0]!r} in the ledger; it has: {known}")
    weights = _weights(sum(spent.values(), NOTHING_SPENT), *spent.values())
    parts = [
        _priced(profiles.get(name or "", _unprofiled()), own, weights).under(name or NOBODY)
        for name, own in spent.items()
        if own.amounts
    ]
    return reduce(Stacks.together, parts)


def frame(category: Category) -> str:
    """What stands in the picture for a category."""
    return f"[{category.label}]"


def without_energy(*parts: CostByCategory) -> list[Category]:
    """The categories that were given back more energy than they have in this period."""
    below = {
        category
        for part in parts
        for category, quantity in part.amounts.items()
        if (quantity.energy_mj or 0) < 0
    }
    return sorted(below)


def _weights(spent: CostByCategory, *parts: CostByCategory) -> list[Weight]:
    """What the ledger has figures of, money first.

    Raises:
        ConfigError: it has nothing of what was asked for, or more than fits.
    """
    if not spent.amounts:
        raise ConfigError("the ledger has nothing of what was asked for, so there is no width")
    total, weights = spent.total, [TIME]
    if total.units is not None and spent.currency is not None:
        weights.insert(0, cost(spent.currency))
    if total.energy_mj is not None and not without_energy(spent, *parts):
        weights.append(ENERGY)
    if max(_amounts(total, weights)) > LARGEST:
        raise ConfigError("the ledger has more of it than 2^63 units: take a shorter period")
    return weights


def _priced(
    stacks: Stacks,
    spent: CostByCategory,
    weights: Sequence[Weight],
    of_step: Mapping[int, Quantity] = NO_STEPS,
) -> Stacks:
    for category, quantity in spent.amounts.items():
        least = min(_amounts(quantity, weights))
        if least < 0:
            raise ConfigError(
                f"{category.label} is below 0 in this period ({least}): what was moved away "
                "belongs to hours before it; take a longer period"
            )
    parts: list[Stacks] = []
    for category in {Category.DIRECT: Quantity(), **spent.amounts}:
        quantity = spent.amounts.get(category, Quantity())
        own = _of_category(stacks, category).merged()
        if not len(own):
            own = _unprofiled()
        steps = of_step if category is Category.DIRECT else NO_STEPS
        values = _divided(own, quantity, weights, steps)
        parts.append(own.weighed(weights, values).under(frame(category)))
    return reduce(Stacks.together, parts)


def _of_category(stacks: Stacks, category: Category) -> Stacks:
    """The stacks that stand below a category: where none says its own, all below `direct`."""
    if CATEGORY not in stacks.labels:
        return stacks.where(np.full(len(stacks), category is Category.DIRECT))
    return stacks.where(np.array([one == category.label for one in stacks.label(CATEGORY)]))


def _divided(
    stacks: Stacks,
    quantity: Quantity,
    weights: Sequence[Weight],
    of_step: Mapping[int, Quantity],
) -> Ints:
    """What each stack has of an amount, by weight. Shape (weights, stacks)."""
    shares = stacks.values[0].tolist()
    hashes = [stable_hash("\n".join(stacks.stack(index))) for index in range(len(stacks))]
    left = _amounts(quantity, weights)
    found = np.zeros((len(weights), len(stacks)), np.int64)
    members: dict[int, list[int]] = {}
    for index, step in enumerate(stacks.label(STEP) if of_step else ()):
        if step is not None and int(step) in of_step:
            members.setdefault(int(step), []).append(index)
    for number, rows in sorted(members.items()):
        own = [max(0, amount) for amount in _amounts(of_step[number], weights)]
        if not all(map(ge, left, own)):
            continue  # what was moved away from it later belongs to other steps' lines
        for row, amount in enumerate(own):
            part = divided(amount, [shares[one] for one in rows], [hashes[one] for one in rows])
            found[row, rows] += np.array(part, np.int64)
            left[row] -= amount
    for row, amount in enumerate(left):
        found[row] += np.array(divided(amount, shares, hashes), np.int64)
    return found


def _unprofiled() -> Stacks:
    """One stack without a frame: all of a workload of which there is no profile."""
    columns = StackColumns()
    columns.add((), (1,))
    return columns.stacks((COUNT,))


def _amounts(quantity: Quantity, weights: Sequence[Weight]) -> list[int]:
    of = {TIME: quantity.device_ns, ENERGY: quantity.energy_mj or 0}
    return [of.get(weight, quantity.units or 0) for weight in weights]
