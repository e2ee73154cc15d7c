"""What is in a ledger: how large it is, what it holds from when on, and whose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import func, select, text

from apportion.cost.ledger.backup import size_of
from apportion.cost.ledger.engine import is_file, ledger_url
from apportion.cost.ledger.migration import revision_of
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent, device, watermark
from apportion.cost.ledger.tables import metadata
from apportion.cost.period import WallTime

if TYPE_CHECKING:
    from sqlalchemy import Connection

NS_PER_DAY: Final = 86_400_000_000_000


class AgentInfo(NamedTuple):
    """One agent. Instants are unix ns; None: not yet."""

    node: str
    cluster: str | None
    version: str
    currency: str | None
    devices: int
    since_unix_ns: int | None
    settled_until_unix_ns: int | None


class LedgerInfo(NamedTuple):
    """A ledger. `free_bytes` of its size are of deleted rows, and will be used again."""

    ledger: str
    schema: str | None
    size_bytes: int
    free_bytes: int
    rows: dict[str, int]
    agents: list[AgentInfo]

    @property
    def bytes_per_day(self) -> int | None:
        """What a day takes on average, of the longest that is kept; None before there is one."""
        days = [
            (row.settled_until_unix_ns - row.since_unix_ns) / NS_PER_DAY
            for row in self.agents
            if row.since_unix_ns is not None and row.settled_until_unix_ns is not None
        ]
        longest = max(days, default=0)
        return None if longest < 1 else round((self.size_bytes - self.free_bytes) / longest)


def ledger_info(ledger: str | Path) -> LedgerInfo:
    """Look at a ledger by path or URL. All its rows are counted, which can take a while.

    Raises:
        LedgerUnavailable: there is no such ledger, or it is out of reach.
        SchemaMismatch: its schema is not one that this release can use.
    """
    url = ledger_url(ledger)
    with LedgerReader.of(ledger) as reader, reader.read() as connection:
        counts = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }
        if is_file(url):
            size = size_of(Path(str(url.database)))
            free = _pragma(connection, "freelist_count") * _pragma(connection, "page_size")
        else:
            here = "SELECT pg_database_size(current_database())"
            size, free = connection.execute(text(here)).scalar_one(), 0
        agents = _agents(connection)
        return LedgerInfo(reader.name, revision_of(connection), size, free, counts, agents)


def _agents(connection: Connection) -> list[AgentInfo]:
    wall = WallTime.load(connection)
    row = watermark.c
    settled = _by_agent(
        connection,
        select(row.agent_id, func.min(row.since_ns), func.max(row.settled_ns)).group_by(
            row.agent_id
        ),
    )
    devices = _by_agent(
        connection, select(device.c.agent_id, func.count()).group_by(device.c.agent_id)
    )
    found: list[AgentInfo] = []
    columns = (agent.c.agent_id, agent.c.node, agent.c.cluster, agent.c.version, agent.c.currency)
    query = select(*columns).order_by(agent.c.node)
    for agent_id, node, cluster, version, currency in rows(connection, query):
        since, until = (
            None if at is None else wall.unix(agent_id, at)
            for at in settled.get(agent_id, (None, None))
        )
        found.append(
            AgentInfo(
                node, cluster, version, currency, devices.get(agent_id, (0,))[0], since, until
            )
        )
    return found


def _by_agent(connection: Connection, query: Any) -> dict[int, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in rows(connection, query)}


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.execute(text(f"PRAGMA {name}")).scalar_one())
