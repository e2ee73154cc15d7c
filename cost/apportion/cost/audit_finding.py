"""What an audit says: for each claim about the book, how much was examined and what broke it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from apportion.core.category import Category
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent, device, device_group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Finding:
    """The first place where a claim does not hold. Times are node time in nanoseconds.

    `expected` and `found` are the two figures that should be one.
    """

    node: str
    subject: str
    start_ns: int
    end_ns: int
    quantity: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.subject} on {self.node}, [{self.start_ns}, {self.end_ns}) ns: {self.quantity} "
            f"should be {self.expected}, the ledger has {self.found}"
        )


@dataclass(frozen=True, slots=True)
class Check:
    """One claim. `examined` counts `unit` (settlements, sums, lines) up to the first finding."""

    name: str
    claim: str
    unit: str
    examined: int
    finding: Finding | None

    @property
    def holds(self) -> bool:
        """Was nothing found against it?"""
        return self.finding is None


def category_label(category: int) -> str:
    """What a category is called, even one that there is not."""
    try:
        return Category(category).label
    except ValueError:
        return f"category {category}"


class Checker:
    """Collects one `Check`: keeps the first finding and stops counting there."""

    def __init__(self, name: str, claim: str, unit: str) -> None:
        self._name: Final = name
        self._claim: Final = claim
        self._unit: Final = unit
        self._examined = 0
        self._finding: Finding | None = None

    def examine(self, finding: Finding | None) -> None:
        """One more thing was looked at; `finding` is what is wrong with it, if anything."""
        if self._finding is None:
            self._examined += 1
            self._finding = finding

    def count(self, examined: int) -> None:
        """The database looked at so many things at once."""
        self._examined = examined

    def done(self) -> Check:
        """The outcome."""
        return Check(self._name, self._claim, self._unit, self._examined, self._finding)


@dataclass(frozen=True, slots=True)
class Names:
    """What keys stand for, for messages."""

    nodes: Mapping[int, str]
    devices: Mapping[tuple[int, int], str]
    groups: Mapping[tuple[int, int], tuple[int, ...]]

    @classmethod
    def load(cls, connection: Connection) -> Names:
        """From the ledger."""
        nodes = rows(connection, select(agent.c.agent_id, agent.c.node))
        devices = rows(connection, select(device.c.agent_id, device.c.device_key, device.c.device))
        groups = rows(
            connection,
            select(device_group.c.agent_id, device_group.c.group_key, device_group.c.device_keys),
        )
        return cls(
            {row[0]: row[1] for row in nodes},
            {(row[0], row[1]): row[2] for row in devices},
            {(row[0], row[1]): tuple(map(int, row[2].split(","))) for row in groups},
        )

    def node(self, agent_id: int) -> str:
        """The agent's node."""
        return self.nodes.get(agent_id, f"agent {agent_id}")

    def device(self, agent_id: int, key: int) -> str:
        """`device NAME`."""
        return f"device {self.devices.get((agent_id, key), f'key {key}')}"

    def group(self, agent_id: int, key: int) -> str:
        """`group NAME+NAME`."""
        members = self.groups.get((agent_id, key))
        if members is None:
            return f"group key {key}"
        return "group " + "+".join(
            self.devices.get((agent_id, member), f"key {member}") for member in members
        )

    def linked_groups(self) -> dict[tuple[int, int], int]:
        """By agent and group the lowest key of the groups that it shares devices with, however far.

        Cost moves between such groups, and they share what a device costs more or less later.
        """
        lowest: dict[tuple[int, int], int] = {}
        pending = True
        while pending:
            pending = False
            for (agent_id, group), members in sorted(self.groups.items()):
                keys = [lowest.get((agent_id, member), group) for member in members]
                chosen = min([group, *keys])
                for member in members:
                    if lowest.get((agent_id, member)) != chosen:
                        lowest[agent_id, member] = chosen
                        pending = True
        return {
            (agent_id, group): min(lowest[agent_id, member] for member in members)
            for (agent_id, group), members in self.groups.items()
        }
