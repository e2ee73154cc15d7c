"""Who meters a device, where agents share a ledger: a lease, by the shared ledger's clock.

An agent that cannot renew goes on with what it holds and takes nothing new. The epoch rises
whenever a device changes hands, so that what an agent settled after it had lost a device without
knowing it can be told apart when it arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, insert, select, text

from apportion.cost.ledger.schema import agent
from apportion.cost.ledger.shipping_tables import lease

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlalchemy import Connection

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000000)::bigint"
_CLAIM: Final = text(
    f"""
    INSERT INTO lease (device, agent_id, epoch, expires_unix_ns)
    VALUES (:device, :agent_id, 0, {_NOW} + :duration_ns)
    ON CONFLICT (device) DO UPDATE SET
        agent_id = excluded.agent_id,
        epoch = lease.epoch + CASE WHEN lease.agent_id = excluded.agent_id THEN 0 ELSE 1 END,
        expires_unix_ns = excluded.expires_unix_ns
    WHERE lease.agent_id = excluded.agent_id OR lease.expires_unix_ns < {_NOW}
    RETURNING epoch
    """  # noqa: S608 - constants of this module
)
_RELEASE: Final = text("UPDATE lease SET expires_unix_ns = 0 WHERE agent_id = :agent_id")


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim came to: epochs of what is this agent's, holders of what is not."""

    granted: Mapping[str, int]
    refused: Mapping[str, str]
    """By device the node whose agent has it."""


def claim(
    connection: Connection, agent_id: int, devices: Iterable[str], duration_ns: int
) -> Claimed:
    """In the shared ledger: take or renew the lease of each device that nobody else has."""
    granted: dict[str, int] = {}
    # In one order for all, so that two agents never wait for each other.
    wanted = sorted(devices)
    for device in wanted:
        values = {"device": device, "agent_id": agent_id, "duration_ns": duration_ns}
        epoch = connection.execute(_CLAIM, values).scalar()
        if epoch is not None:
            granted[device] = int(epoch)
    others = [device for device in wanted if device not in granted]
    holders = (
        select(lease.c.device, agent.c.node)
        .select_from(lease.outerjoin(agent, agent.c.agent_id == lease.c.agent_id))
        .where(lease.c.device.in_(others))
    )
    found = {row.device: row.node for row in connection.execute(holders)} if others else {}
    return Claimed(granted, {device: found.get(device) or "an unknown node" for device in others})


def release(connection: Connection, agent_id: int) -> None:
    """In the shared ledger: whoever wants the agent's devices may have them at once."""
    connection.execute(_RELEASE, {"agent_id": agent_id})


def held(connection: Connection, agent_id: int) -> dict[str, int]:
    """In the node's ledger: the epoch of each device that the agent was granted last."""
    query = select(lease.c.device, lease.c.epoch).where(lease.c.agent_id == agent_id)
    return {row.device: row.epoch for row in connection.execute(query)}


def hold(connection: Connection, agent_id: int, granted: Mapping[str, int]) -> None:
    """In the node's ledger: these are what the agent holds from now on, and nothing else."""
    connection.execute(delete(lease).where(lease.c.agent_id == agent_id))
    rows = [
        {"device": device, "agent_id": agent_id, "epoch": epoch, "expires_unix_ns": 0}
        for device, epoch in granted.items()
    ]
    if rows:
        connection.execute(insert(lease), rows)


def stale(
    connection: Connection, agent_id: int, epochs: Mapping[str, int], devices: Collection[str]
) -> set[str]:
    """In the shared ledger: those of `devices` that are no longer held in the agent's epochs.

    A device without a lease is nobody else's.
    """
    query = select(lease.c.device, lease.c.agent_id, lease.c.epoch).where(
        lease.c.device.in_(devices)
    )
    return {
        device
        for device, holder, epoch in connection.execute(query)
        if holder != agent_id or epochs.get(device, epoch) != epoch
    }
