"""Stacks written by hand, and a slow and obvious answer to what a tree of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apportion.profiles.stacks import StackColumns, Stacks
from apportion.profiles.weight import COUNT, Weight

Path = tuple[str, ...]


def stacks_of(
    content: Sequence[tuple[str, Sequence[int] | int]], weights: Sequence[Weight] = (COUNT,)
) -> Stacks:
    """Stacks from `("a;b", 3)`, or with several weights `("a;b", (3, 5))`."""
    columns = StackColumns()
    for stack, values in content:
        frames = stack.split(";") if stack else []
        columns.add(frames, (values,) if isinstance(values, int) else values)
    return columns.stacks(weights)


def totals_of(stacks: Stacks, row: int = 0) -> Mapping[Path, int]:
    """What each path from the root weighs, callees included."""
    found: dict[Path, int] = {(): 0}
    for index, value in enumerate(stacks.values[row].tolist()):
        names = stacks.stack(index)
        for depth in range(len(names) + 1):
            path = tuple(names[:depth])
            found[path] = found.get(path, 0) + value
    return {path: value for path, value in found.items() if value or not path}
