"""Small tables that give things integer keys, and remember which rows are not committed yet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from apportion.cost.ledger.batch import Row

K = TypeVar("K", bound="Hashable")


class EntityKey(NamedTuple):
    """Who a cost goes to: a workload's tenant, a run, or the owner of unknown processes."""

    workload: str | None = None
    run: str | None = None
    attempt: str | None = None
    tenant: str | None = None
    model: str | None = None
    owner: str | None = None
    base_model: str | None = None
    """Of an adapter, which is its `model`."""

    @property
    def name(self) -> str:
        """What tells one from another: as it ever was where there is no adapter."""
        return json.dumps(self if self.base_model is not None else self[:-1])


class Interned(Generic[K]):
    """Keys from 1, in order of appearance; `fresh` are the rows to insert with the next commit."""

    def __init__(self, known: Iterable[tuple[int, K]] = ()) -> None:
        self._by_key: dict[int, K] = dict(sorted(known, key=lambda row: row[0]))
        self._by_value: dict[K, int] = {value: key for key, value in self._by_key.items()}
        self._next = max(self._by_key, default=0) + 1
        self._fresh: list[int] = []

    def key(self, value: K) -> int:
        """The key of `value`, a new one if it was never seen."""
        known = self._by_value.get(value)
        return self.renewed(value) if known is None else known

    def renewed(self, value: K) -> int:
        """A new key for `value`, and from now on its only one; what has the old one keeps it."""
        key = self._next
        self._next += 1
        self._by_value[value] = key
        self._by_key[key] = value
        self._fresh.append(key)
        return key

    def __contains__(self, value: K) -> bool:
        return value in self._by_value

    def value(self, key: int) -> K:
        """What `key` stands for."""
        return self._by_key[key]

    def items(self) -> list[tuple[int, K]]:
        """Every (key, value)."""
        return list(self._by_key.items())

    def fresh(self) -> list[tuple[int, K]]:
        """What no commit has written yet."""
        return [(key, self._by_key[key]) for key in self._fresh]

    def committed(self) -> None:
        """Everything so far is in the ledger."""
        self._fresh.clear()


def entity_rows(entities: Interned[EntityKey]) -> list[Row]:
    """New rows of the table `entity`."""
    return [(key, *value) for key, value in entities.fresh()]


def group_rows(groups: Interned[tuple[int, ...]]) -> list[Row]:
    """New rows of the table `device_group`."""
    return [(key, ",".join(map(str, value))) for key, value in groups.fresh()]
