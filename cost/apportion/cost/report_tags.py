"""What programs said of themselves beside their names: the tags of `client.init`, by who they are.

A tag belongs to an attempt. Where its processes disagree, and over the attempts that share a run or
a workload, the process that was seen last has the word: a tag can be put right afterwards.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import select

from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import ring

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from apportion.cost.report_dimensions import Entity

PREFIX: Final = "tag:"
"""Of the dimension `tag:team`."""
_SHOWN: Final = 20


class Tags:
    """The values of one tag."""

    def __init__(self, connection: Connection, name: str) -> None:
        """Read all values of the tag called `name`."""
        self._values: dict[tuple[int, tuple[str | None, ...]], str] = {}
        known: set[str] = set()
        identities = select(ring.c.agent_id, ring.c.identity).order_by(
            ring.c.attached_ns, ring.c.agent_id, ring.c.ring_key
        )
        for agent_id, text in rows(connection, identities):
            said = cast("dict[str, Any]", json.loads(text))
            tags: dict[str, Any] = said.get("tags") or {}
            known.update(tags)
            value = tags.get(name)
            if isinstance(value, str):
                who = tuple(said.get(part) for part in ("workload", "run", "attempt"))
                for length in range(len(who)):
                    self._values[agent_id, who[: length + 1]] = value
        self.hint: Final = None if self._values else _hint(name, known)
        """Where no program said it: which tags there are, in a sentence."""

    def of(self, agent_id: int, entity: Entity) -> str | None:
        """The value for an entity; None where its programs did not say it."""
        who = (entity.workload, entity.run, entity.attempt)
        said = next((at for at, part in enumerate(who) if part is None), len(who))
        return self._values.get((agent_id, who[:said]))


def _hint(name: str, known: set[str]) -> str:
    if not known:
        return f'no program said a tag; {name} would come from client.init(tags={{"{name}": ...}})'
    shown = ", ".join(f"{PREFIX}{each}" for each in sorted(known)[:_SHOWN])
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"no program said the tag {name}; there are {shown}{more}"
