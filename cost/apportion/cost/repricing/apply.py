"""A price table applied to the ledger of one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apportion.core.errors import LedgerError
from apportion.cost.figure_text import instant
from apportion.cost.ledger.agents import AgentRow, agent_of
from apportion.cost.period import Period, WallTime
from apportion.cost.repricing.propose import propose
from apportion.cost.repricing.recorded import Recorded
from apportion.cost.rollups.marks import NEVER_NS
from apportion.cost.rollups.reach import kept_from

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from apportion.cost.ledger.ledger import Ledger
    from apportion.cost.ledger.reader import LedgerReader
    from apportion.cost.rate import PriceTable
    from apportion.cost.repricing.proposal import Proposal


def planned(
    ledger: LedgerReader,
    node: str,
    prices: PriceTable,
    start_unix_ns: int | None,
    end_unix_ns: int | None,
) -> Proposal:
    """What `apply` would post; nothing is.

    `prices` are the rows of the table that hold on `node`, the period is [start, end), widened to
    whole hours.

    Raises:
        LedgerError: another currency than the ledger's, an unknown node, too much at once, hours
            whose lines are kept no longer.
    """
    with ledger.read() as connection:
        agent = agent_of(connection, ledger.name, node)
        if prices.currency is not None and agent.currency not in {None, prices.currency}:
            message = (
                f"ledger {ledger.name} is in {agent.currency}, the prices are in "
                f"{prices.currency}: one ledger has one currency"
            )
            raise LedgerError(message)
        wall = WallTime.load(connection)
        period = Period.around(start_unix_ns, end_unix_ns, wall)
        _refuse_deleted(connection, agent, period)
        recorded = Recorded(connection, agent.agent_id)
        now_ns = wall.node(agent.agent_id, ledger.clock.realtime_ns())
        proposal = propose(recorded, period, prices.rates_of, now_ns=now_ns)
    if proposal.lines and agent.currency is None:
        _take_currency(proposal, agent, prices)
    return proposal


def apply_prices(
    ledger: Ledger,
    node: str,
    prices: PriceTable,
    start_unix_ns: int | None,
    end_unix_ns: int | None,
) -> Proposal:
    """Post what is planned, in one transaction. The caller holds the ledger's command lock.

    An agent may run meanwhile: of the hours that are touched it posts nothing but moves, and
    what those change is evened out when prices are applied the next time.

    Raises:
        LedgerUnavailable: locked, full or gone for now; nothing was posted.
        LedgerError: as `planned`.
    """
    proposal = planned(ledger, node, prices, start_unix_ns, end_unix_ns)
    if proposal.batch.inserted:
        ledger.commit(proposal.batch)
    return proposal


def _refuse_deleted(connection: Connection, agent: AgentRow, period: Period) -> None:
    kept_ns = kept_from(connection, agent.agent_id)
    start_ns, _ = period.edges(agent.agent_id)
    if kept_ns != NEVER_NS and (start_ns is None or start_ns < kept_ns):
        since = instant(period.wall.hour(agent.agent_id, kept_ns))
        message = (
            f"lines of {agent.node} are kept from {since} on: what is older is in rollups alone, "
            f"and keeps its price; give --since {since} or later"
        )
        raise LedgerError(message)


def _take_currency(proposal: Proposal, agent: AgentRow, prices: PriceTable) -> None:
    """The first amounts of a ledger decide what it is in."""
    row = agent._replace(currency=prices.currency)
    proposal.batch.replace("agent", [row[1:]])
