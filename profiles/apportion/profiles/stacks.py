"""Stacks in columns: who called whom, and what each stack weighs, as whole numbers.

A stack may come several times: what reads them adds up. Frames are text of strangers' programs
and may hold anything.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from apportion.core.errors import ProfileTraceError
from apportion.profiles.device_trace import Flags, Ints
from apportion.profiles.weight import COST, LARGEST, MONEY, Weight, too_much

Codes = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Stacks:
    """n stacks, the root first.

    names: every text, once. frames: index into `names`, all stacks one after the other.
    offsets: stack i is `frames[offsets[i]:offsets[i + 1]]`. Shape n + 1.
    values: by weight, 0 or more. Shape (weights, n). Their sums fit 63 bits.
    labels: by key, what each stack belongs to (a request, a step): index into `names`, or -1.
    """

    names: tuple[str, ...]
    frames: Codes
    offsets: Ints
    weights: tuple[Weight, ...]
    values: Ints
    labels: Mapping[str, Codes] = field(default_factory=dict[str, Codes])

    def __post_init__(self) -> None:
        """Hold the sums to what their columns can hold.

        Raises:
            ProfileTraceError: a weight is below 0, or all of them together are too much.
        """
        for weight, values in zip(self.weights, self.values, strict=True):
            if len(values) and int(values.min()) < 0:
                raise ProfileTraceError(f"has a weight below 0 ({weight.name}): no width shows it")
            if _total(values) > LARGEST:
                raise too_much(weight)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def depths(self) -> Ints:
        """How many frames each stack has."""
        return np.diff(self.offsets)

    def weight(self, name: str | None) -> int:
        """The row of `values` that is called `name`; the first one where nobody says.

        Raises:
            ProfileTraceError: there is none of this name.
        """
        known = [weight.name for weight in self.weights]
        if name is None:
            return 0
        if name not in known:
            asked = MONEY if name == COST else name
            raise ProfileTraceError(
                f"has no weight {asked!r}, but {', '.join(one.asked_as for one in self.weights)}; "
                "money and energy come from a ledger: apportion flamegraph build --ledger"
            )
        return known.index(name)

    def total(self, row: int) -> int:
        """What all stacks weigh together by the weight of `row`."""
        return _total(self.values[row])

    def stack(self, index: int) -> list[str]:
        """The frames of one stack, by name."""
        codes = self.frames[self.offsets[index] : self.offsets[index + 1]]
        return [self.names[code] for code in codes]

    def merged(self) -> Stacks:
        """Every stack once for each set of its labels, in the order in which they came first."""
        place: dict[tuple[bytes, ...], int] = {}
        offsets = self.offsets.tolist()
        labels = [column.tolist() for column in self.labels.values()]
        group = np.array(
            [
                place.setdefault(
                    (
                        self.frames[begin:end].tobytes(),
                        *(b"%d" % column[index] for column in labels),
                    ),
                    len(place),
                )
                for index, (begin, end) in enumerate(pairwise(offsets))
            ],
            np.int64,
        )
        if len(place) == len(self):
            return self
        values = np.zeros((len(self.weights), len(place)), np.int64)
        for row, column in enumerate(self.values):
            np.add.at(values[row], group, column)
        first = np.zeros(len(self), np.bool_)
        first[np.unique(group, return_index=True)[1]] = True
        return replace(self.where(first), values=values)

    def where(self, chosen: Flags) -> Stacks:
        """The stacks that a mask chooses."""
        kept = np.flatnonzero(chosen)
        depths = self.depths
        return replace(
            self,
            frames=self.frames[np.repeat(chosen, depths)],
            offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(depths[kept]))),
            values=self.values[:, kept],
            labels={key: column[kept] for key, column in self.labels.items()},
        )

    def under(self, name: str) -> Stacks:
        """The same stacks, called by one more frame."""
        names = self.names if name in self.names else (*self.names, name)
        return replace(
            self,
            names=names,
            frames=np.insert(self.frames, self.offsets[:-1], names.index(name)),
            offsets=self.offsets + np.arange(len(self.offsets)),
        )

    def labelled(self, key: str, texts: Sequence[str | None]) -> Stacks:
        """The same stacks with one more label, of shape n; without it where nobody has one."""
        if not any(text is not None for text in texts):
            return self
        codes = {name: code for code, name in enumerate(self.names)}
        column = [-1 if text is None else codes.setdefault(text, len(codes)) for text in texts]
        labels = {**self.labels, key: np.array(column, np.int32)}
        return replace(self, names=tuple(codes), labels=labels)

    def label(self, key: str) -> list[str | None]:
        """The label `key` of each stack, None where it has none."""
        column: list[int] = _label(self, key).tolist()
        return [None if code < 0 else self.names[code] for code in column]

    def without(self, *keys: str) -> Stacks:
        """The same stacks without these labels."""
        kept = {key: column for key, column in self.labels.items() if key not in keys}
        return replace(self, labels=kept)

    def weighed(self, weights: Sequence[Weight], values: Ints) -> Stacks:
        """The same stacks with other weights."""
        return replace(self, weights=tuple(weights), values=values)

    def together(self, other: Stacks) -> Stacks:
        """Both, one after the other. The weights of both must be the same.

        Raises:
            ProfileTraceError: they are not.
        """
        if self.weights != other.weights:
            raise ProfileTraceError(
                f"weighs {_listed(other.weights)}, and what was read before "
                f"{_listed(self.weights)}: they cannot be added up"
            )
        codes = {name: code for code, name in enumerate(self.names)}
        place = np.array([codes.setdefault(name, len(codes)) for name in other.names], np.int32)
        labels = {
            key: np.concatenate((_label(self, key), _moved(_label(other, key), place)))
            for key in {**self.labels, **other.labels}
        }
        return Stacks(
            tuple(codes),
            np.concatenate((self.frames, place[other.frames])),
            np.concatenate((self.offsets, self.offsets[-1] + other.offsets[1:])),
            self.weights,
            np.concatenate((self.values, other.values), axis=1),
            labels,
        )


class StackColumns:
    """Growing columns of stacks, for readers."""

    def __init__(self) -> None:
        self.codes = _Codes()
        self._frames = array("i")
        self._offsets = array("q", [0])
        self._values = array("q")

    def add(self, names: Iterable[str], values: Iterable[int]) -> None:
        """Take a stack, root first, and its weights."""
        self._frames.extend(map(self.codes.__getitem__, names))
        self._offsets.append(len(self._frames))
        self._values.extend(values)

    def stacks(self, weights: Sequence[Weight]) -> Stacks:
        """What was taken."""
        rows = len(self._offsets) - 1
        values = np.array(self._values, np.int64).reshape(rows, len(weights))
        return Stacks(
            tuple(self.codes),
            np.array(self._frames, np.int32),
            np.array(self._offsets, np.int64),
            tuple(weights),
            np.ascontiguousarray(values.T),
        )


class _Codes(dict[str, int]):
    """Numbers for names, counted as they come."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code


def _total(values: Ints) -> int:
    """The exact sum, which may not fit the column's own numbers."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def _label(stacks: Stacks, key: str) -> Codes:
    return stacks.labels.get(key, np.full(len(stacks), -1, np.int32))


def _moved(labels: Codes, place: Codes) -> Codes:
    moved = labels.copy()
    known = labels >= 0
    moved[known] = place[labels[known]]
    return moved


def _listed(weights: Sequence[Weight]) -> str:
    return ", ".join(f"{weight.name} in {weight.unit}" for weight in weights)
