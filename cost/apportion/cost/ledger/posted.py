"""Finding lines by when they were posted. The table keeps no index for it, and needs none.

Lines are numbered as they are posted, by the agent upwards from 1 and by commands downwards from
-1: the first one of some time is found by halving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from apportion.cost.ledger.schema import charge

if TYPE_CHECKING:
    from sqlalchemy import Connection


class KeysSince(NamedTuple):
    """Lines posted since some instant have a `charge_key` from `up` upwards or `down` downwards."""

    up: int
    down: int


def keys_since(connection: Connection, agent_id: int, posted_ns: int) -> KeysSince:
    """Where one agent's lines begin that were posted at `posted_ns` or later."""

    def number_of_first(sign: int) -> int:
        key = charge.c.charge_key
        outward = key if sign > 0 else key.desc()

        def at(number: int) -> int | None:
            """When the first line from `number` outward was posted; None: there is none."""
            far = key >= number if sign > 0 else key <= -number
            query = select(charge.c.posted_ns).where(charge.c.agent_id == agent_id, far)
            return connection.execute(query.order_by(outward).limit(1)).scalar()

        def is_since(number: int) -> bool:
            found = at(number)
            return found is None or found >= posted_ns

        high = 1
        while not is_since(high):
            high *= 2
        low = high // 2 + 1 if high > 1 else 1
        while low < high:
            middle = (low + high) // 2
            if is_since(middle):
                high = middle
            else:
                low = middle + 1
        return low

    return KeysSince(number_of_first(1), -number_of_first(-1))
