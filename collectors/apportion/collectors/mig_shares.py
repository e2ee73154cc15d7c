"""How a GPU that is cut into MIG instances is divided among them and what is left of it.

Energy and power are metered for the whole GPU only. They go by compute slices: an instance that
has three of seven gets three sevenths. What no instance holds is a device of its own.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction
from typing import Final, TypeVar

Part = TypeVar("Part", bound=Hashable)

REST: Final = "unallocated"
_COMPUTE: Final = re.compile(r"(?:\d+c\.)?([1-7])g\.", re.ASCII)
_SLICES: Final = 7
_OTHER_SLICES: Final = {"A30": 4, "RTX PRO 6000": 4}
"""By a part of the name: GPUs with another number of compute slices than most."""


def rest_name(profiles: Iterable[str]) -> str:
    """What the rest beside instances of these profiles is called after its GPU, for its price."""
    beside = ",".join(sorted(profiles))
    return f" MIG {REST} beside {beside}" if beside else f" MIG {REST}"


def shares(profiles: Mapping[int, str], model: str) -> tuple[Fraction, ...]:
    """The part of the GPU that each instance has, by its id, then the rest; 1 together.

    A profile that cannot be read has no part. Instances that are more than the GPU, which means
    that its model is not known here, are the whole, and nothing is left.
    """
    sizes: list[int] = []
    for number in sorted(profiles):
        found = _COMPUTE.match(profiles[number])
        sizes.append(0 if found is None else int(found[1]))
    slices = next((size for name, size in _OTHER_SLICES.items() if name in model), _SLICES)
    whole = max(slices, sum(sizes))
    return (
        *(Fraction(size, whole) for size in sizes),
        Fraction(whole - sum(sizes), whole),
    )


def divided(amount: int, parts: Mapping[Part, Fraction]) -> dict[Part, int]:
    """`amount` by `parts` that are 1 together, exactly: the largest remainders get the rest."""
    exact = {part: amount * share for part, share in parts.items()}
    given = {part: int(share) for part, share in exact.items()}
    left = amount - sum(given.values())
    for part in sorted(parts, key=lambda part: (given[part] - exact[part], str(part)))[:left]:
        given[part] += 1
    return given
