"""Stacks weighed by what the ledger says they cost: the root is its amount, to the unit."""

from __future__ import annotations

import numpy as np

from apportion.core.category import Category
from apportion.core.errors import ConfigError
from apportion.cost.cost_by_category import CostByCategory
from apportion.cost.quantity import Quantity
from apportion.cost.rounding import divided, stable_hash
from apportion.profiles.stacks import LARGEST, StackColumns, Stacks
from apportion.profiles.weight import ENERGY, TIME, Weight, cost


def priced(stacks: Stacks, spent: CostByCategory) -> Stacks:
    """`stacks` below a frame `[direct]`, and a frame beside it for each other category.

    What is direct (device time, money, energy) is divided among the stacks by what they weigh so
    far, by largest remainder, ties by the stack's own text: no sum differs from the ledger's, and
    the result does not depend on any order. A weight that the ledger has none of is left out.

    Raises:
        ConfigError: the ledger has nothing of it, or a category that costs less than nothing.
    """
    merged = stacks.merged()
    weights: list[Weight] = [TIME]
    total = spent.total
    if total.units is not None and spent.currency is not None:
        weights.insert(0, cost(spent.currency))
    if total.energy_mj is not None:
        weights.append(ENERGY)
    if not spent.amounts:
        raise ConfigError("the ledger has nothing of what was asked for, so there is no width")
    if max(_amounts(total, weights)) > LARGEST:
        raise ConfigError("the ledger has more of it than 2^63 units: take a shorter period")
    below = min(
        (
            (amount, category)
            for category, quantity in spent.amounts.items()
            for amount in _amounts(quantity, weights)
        ),
        default=(0, Category.DIRECT),
    )
    if below[0] < 0:
        raise ConfigError(
            f"{below[1].label} is below 0 in this period ({below[0]}): what was moved away belongs "
            "to hours before it; take a longer period"
        )
    direct = spent.amounts.get(Category.DIRECT, Quantity())
    shares = merged.values[0].tolist()
    texts = ["\n".join(merged.stack(index)) for index in range(len(merged))]
    hashes = [stable_hash(text) for text in texts]
    parts = [divided(amount, shares, hashes) for amount in _amounts(direct, weights)]
    run = merged.weighed(weights, np.array(parts, np.int64)).under(frame(Category.DIRECT))
    columns = StackColumns()
    for category, quantity in spent.amounts.items():
        if category != Category.DIRECT:
            columns.add([frame(category)], _amounts(quantity, weights))
    return run.together(columns.stacks(weights))


def frame(category: Category) -> str:
    """What stands in the picture for a category."""
    return f"[{category.label}]"


def _amounts(quantity: Quantity, weights: list[Weight]) -> list[int]:
    of = {TIME: quantity.device_ns, ENERGY: quantity.energy_mj or 0}
    return [of.get(weight, quantity.units or 0) for weight in weights]
