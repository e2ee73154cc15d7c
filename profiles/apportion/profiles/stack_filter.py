"""Which stacks belong to the steps that are asked for, by their label."""

from __future__ import annotations

import math

import numpy as np

from apportion.profiles.device_trace import Flags, Ints
from apportion.profiles.stacks import Stacks
from apportion.profiles.step_range import StepRange


def of_steps(stacks: Stacks, key: str, steps: StepRange) -> Flags:
    """Whether the label `key` of each stack is a number in the range. Shape of the stacks."""
    inside = [name.isdecimal() and int(name) in steps for name in stacks.names]
    return _chosen(stacks, key, np.array(inside, np.bool_))


def steps_of(stacks: Stacks, key: str) -> set[int]:
    """The numbers among the labels `key`."""
    return {int(name) for name in set(stacks.label(key)) if name is not None and name.isdecimal()}


def costliest(stacks: Stacks, row: int, key: str, percent: float) -> Flags:
    """Those of the `percent` % of labels `key` that weigh most by `row`, at least of one label.

    Labels that weigh the same are taken in the order of their texts.
    """
    totals = np.zeros(len(stacks.names), np.int64)
    column: Ints = stacks.labels.get(key, np.full(len(stacks), -1)).astype(np.int64)
    known = column >= 0
    np.add.at(totals, column[known], stacks.values[row][known])
    labels: list[int] = sorted(
        np.unique(column[known]).tolist(), key=lambda code: (-int(totals[code]), stacks.names[code])
    )
    taken = labels[: max(1, math.floor(len(labels) * percent / 100))]
    return _chosen(stacks, key, np.isin(np.arange(len(stacks.names)), taken))


def _chosen(stacks: Stacks, key: str, names: Flags) -> Flags:
    column = stacks.labels.get(key)
    if column is None:
        return np.zeros(len(stacks), np.bool_)
    return (column >= 0) & names[column]
