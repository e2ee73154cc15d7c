"""The node's side of shipping: which commits the shared ledger does not have yet.

Each commit leaves one row in the outbox, in its own transaction, and the shipper takes them in
order. Where the outbox is not enough (shipping begins, or the outbox outgrew its bound, or the
shared ledger lost commits) it is emptied, and everything that may be missing is copied first.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, delete, func, insert, select, update

from apportion.core.errors import LedgerError
from apportion.cost.ledger.engine import WRITES, ledger_errors
from apportion.cost.ledger.lease import held, hold
from apportion.cost.ledger.schema import device, watermark
from apportion.cost.ledger.shipment import NO_ROW_NS, Shipment, since_ns
from apportion.cost.ledger.shipping_state import (
    NOTHING,
    CopyReason,
    Mark,
    ShippingState,
    Waiting,
)
from apportion.cost.ledger.shipping_tables import outbox, shipping

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from sqlalchemy import Connection, Engine

    from apportion.core.clock import Clock
    from apportion.cost.ledger.batch import TickBatch

_ID_BITS: Final = 63


class Outbox:
    """One agent's outbox in its own ledger. Every method is one transaction of its own.

    The thread that ships uses it; commits, in whatever thread, go through `record`.
    """

    def __init__(self, engine: Engine, name: str, agent_id: int, clock: Clock) -> None:
        self._engine = engine
        self._name = name
        self.agent_id: Final = agent_id
        self._clock = clock

    def record(self, connection: Connection, batch: TickBatch) -> None:
        """Note what a commit changes, in its transaction; nothing where nothing is shipped."""
        known = connection.execute(
            select(
                shipping.c.most_bytes,
                shipping.c.waiting_bytes,
                shipping.c.commit_no,
                shipping.c.since_ns,
            ).where(shipping.c.agent_id == self.agent_id, shipping.c.most_bytes.is_not(None))
        ).first()
        if known is None:
            return
        epochs = held(connection, self.agent_id)
        payload, start_ns = Shipment.of(batch, epochs).encode(), since_ns(batch)
        mark = Mark(known.commit_no + 1, _random_id())
        waiting_bytes = known.waiting_bytes + len(payload)
        values = {
            "commit_no": mark.commit_no,
            "commit_id": mark.commit_id,
            "waiting_bytes": waiting_bytes,
            "since_ns": None if known.since_ns is None else min(known.since_ns, start_ns),
        }
        if waiting_bytes > known.most_bytes:
            connection.execute(delete(outbox).where(outbox.c.agent_id == self.agent_id))
            values |= {"waiting_bytes": 0, "copy_reason": CopyReason.OVERFLOW.value}
        else:
            connection.execute(
                insert(outbox).values(
                    agent_id=self.agent_id,
                    commit_no=mark.commit_no,
                    commit_id=mark.commit_id,
                    committed_unix_ns=self._clock.realtime_ns(),
                    since_ns=start_ns,
                    payload=payload,
                )
            )
        connection.execute(
            update(shipping).where(shipping.c.agent_id == self.agent_id).values(values)
        )

    def switch_on(self, most_bytes: int) -> None:
        """From now on every commit waits here, in at most `most_bytes` of payloads."""
        with self._writing("switch shipping on") as connection:
            known = self._of(connection)
            if known is None:
                connection.execute(
                    insert(shipping).values(
                        agent_id=self.agent_id,
                        most_bytes=most_bytes,
                        waiting_bytes=0,
                        commit_no=NOTHING.commit_no,
                        commit_id=NOTHING.commit_id,
                        copy_reason=CopyReason.FIRST.value,
                    )
                )
                # What it meters already it goes on with, whether the shared ledger is there or not.
                hold(connection, self.agent_id, dict.fromkeys(self._metered(connection), 0))
                return
            values: dict[str, Any] = {"most_bytes": most_bytes}
            if known.most_bytes is None:
                # A number that is in no outbox stands for what was committed meanwhile.
                values |= {"commit_no": known.commit_no + 1, "commit_id": _random_id()}
                values |= {"copy_reason": CopyReason.FIRST.value, "since_ns": None}
            self._update(connection, values)

    def switch_off(self) -> None:
        """Commits wait for nobody any more. What has arrived is remembered."""
        with self._writing("switch shipping off") as connection:
            connection.execute(delete(outbox).where(outbox.c.agent_id == self.agent_id))
            self._update(connection, {"most_bytes": None, "waiting_bytes": 0})

    def state(self) -> ShippingState:
        """How far it is. Shipping must have been switched on once."""
        with self._reading() as connection:
            return self._state(connection)

    def first(self, most_commits: int, most_bytes: int) -> list[Waiting]:
        """The next commits in order: at least one where any waits, within the bounds else."""
        query = (
            select(outbox.c.commit_no, outbox.c.commit_id, outbox.c.payload)
            .where(outbox.c.agent_id == self.agent_id)
            .order_by(outbox.c.commit_no)
            .limit(most_commits)
        )
        found: list[Waiting] = []
        left_bytes = most_bytes
        with self._reading() as connection:
            for commit_no, commit_id, payload in connection.execute(query):
                left_bytes -= len(payload)
                if found and left_bytes < 0:
                    break
                found.append(Waiting(Mark(commit_no, commit_id), payload))
        return found

    def sending(self, mark: Mark) -> None:
        """All up to `mark` may arrive from now on."""
        with self._writing("note what is shipped") as connection:
            self._update(connection, {"sending_no": mark.commit_no, "sending_id": mark.commit_id})

    def arrived(self, mark: Mark) -> None:
        """All up to `mark` has arrived: it need not be kept.

        Nothing has to be copied where every later commit waits in the outbox.
        """
        with self._writing("note what was shipped") as connection:
            freed = self._delete_to(connection, mark)
            before = self._state(connection)
            mine = outbox.c.agent_id == self.agent_id
            held, oldest_ns = connection.execute(
                select(func.count(), func.min(outbox.c.since_ns)).where(mine)
            ).one()
            values: dict[str, Any] = {
                "waiting_bytes": before.waiting_bytes - freed,
                "shipped_no": mark.commit_no,
                "shipped_id": mark.commit_id,
                "sending_no": None,
                "sending_id": None,
            }
            if held == before.last.commit_no - mark.commit_no:
                values |= {"copy_reason": None, "since_ns": oldest_ns if held else NO_ROW_NS}
            self._update(connection, values)

    def lost(self) -> None:
        """The shared ledger does not have what had arrived: everything is to be copied."""
        with self._writing("note what was lost") as connection:
            self._update(connection, {"copy_reason": CopyReason.LOST.value, "since_ns": None})

    @contextmanager
    def copying(self) -> Generator[tuple[Connection, ShippingState]]:
        """One moment of the ledger to copy: everything up to `state.last`, and it alone."""
        with self._reading() as connection:
            yield connection, self._state(connection)

    def leases(self) -> dict[str, int]:
        """The devices that the agent holds, with their epochs."""
        with self._reading() as connection:
            return held(connection, self.agent_id)

    def hold(self, granted: Mapping[str, int]) -> None:
        """From now on the agent holds these devices, and nothing else."""
        with self._writing("note what is held") as connection:
            hold(connection, self.agent_id, granted)

    def _metered(self, connection: Connection) -> list[str]:
        query = (
            select(device.c.device)
            .join(
                watermark,
                and_(
                    watermark.c.agent_id == device.c.agent_id,
                    watermark.c.device_key == device.c.device_key,
                ),
            )
            .where(device.c.agent_id == self.agent_id)
        )
        return list(connection.execute(query).scalars())

    def _delete_to(self, connection: Connection, mark: Mark) -> int:
        """Commits up to `mark` go; the bytes of their payloads."""
        old = (outbox.c.agent_id == self.agent_id, outbox.c.commit_no <= mark.commit_no)
        sizes = select(func.length(outbox.c.payload)).where(*old)
        freed: int = sum(connection.execute(sizes).scalars())
        connection.execute(delete(outbox).where(*old))
        return freed

    def _state(self, connection: Connection) -> ShippingState:
        row = self._of(connection)
        if row is None:
            message = f"nothing of ledger {self._name} was ever to be shipped"
            raise LedgerError(message)
        oldest = connection.execute(
            select(outbox.c.committed_unix_ns)
            .where(outbox.c.agent_id == self.agent_id)
            .order_by(outbox.c.commit_no)
            .limit(1)
        ).scalar()
        return ShippingState(
            Mark(row.commit_no, row.commit_id),
            _mark(row.shipped_no, row.shipped_id),
            _mark(row.sending_no, row.sending_id),
            None if row.copy_reason is None else CopyReason(row.copy_reason),
            row.since_ns,
            row.waiting_bytes,
            oldest,
        )

    def _of(self, connection: Connection) -> Any:
        return connection.execute(
            select(shipping).where(shipping.c.agent_id == self.agent_id)
        ).first()

    def _update(self, connection: Connection, values: dict[str, Any]) -> None:
        connection.execute(
            update(shipping).where(shipping.c.agent_id == self.agent_id).values(values)
        )

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        with ledger_errors(self._name, "read its outbox"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self, doing: str) -> Generator[Connection]:
        with ledger_errors(self._name, doing):
            writing = self._engine.connect().execution_options(**{WRITES: True})
            with writing as connection, connection.begin():
                yield connection


def _random_id() -> int:
    return secrets.randbits(_ID_BITS)


def _mark(commit_no: int | None, commit_id: int | None) -> Mark | None:
    return None if commit_no is None or commit_id is None else Mark(commit_no, commit_id)


def unshipped_since_ns(connection: Connection, agent_id: int) -> int:
    """Node time: posted rows of the agent that start then or later are not shipped yet.

    The node's ledger must keep them, whatever their age. `NO_ROW_NS`: all have arrived, or
    nothing is shipped at all.
    """
    found = connection.execute(
        select(shipping.c.since_ns).where(
            shipping.c.agent_id == agent_id, shipping.c.most_bytes.is_not(None)
        )
    ).first()
    if found is None:
        return NO_ROW_NS
    return -NO_ROW_NS if found.since_ns is None else int(found.since_ns)
