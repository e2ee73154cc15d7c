"""Which agent's rows a command means."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from apportion.core.errors import LedgerError
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent

if TYPE_CHECKING:
    from sqlalchemy import Connection


class AgentRow(NamedTuple):
    """A row of `agent`."""

    agent_id: int
    cluster: str | None
    node: str
    version: str
    created_unix_ns: int
    currency: str | None


def agent_of(connection: Connection, ledger: str, node: str) -> AgentRow:
    """The agent that writes to `ledger` (a name for messages) for `node`.

    Raises:
        LedgerError: there is none; the message says which nodes there are.
    """
    query = select(agent).order_by(agent.c.created_unix_ns, agent.c.agent_id)
    found = [AgentRow(*row) for row in rows(connection, query)]
    for row in found:
        if row.node == node:
            return row
    known = ", ".join(sorted({row.node for row in found})) or "none"
    message = (
        f"ledger {ledger} has nothing of node {node!r}, only of {known}: "
        "use that node's configuration, or name it with --node"
    )
    raise LedgerError(message)
