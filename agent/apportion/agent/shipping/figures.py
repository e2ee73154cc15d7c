"""What shipping says of itself on /metrics: how far it is, and what stands in its way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apportion.cost.ledger.ship import Shipped
    from apportion.cost.ledger.shipping_state import ShippingState

_SOURCE: Final = "shipper"
SECONDS_PER_HOUR: Final = 3_600

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_shared_ledger_connected",
        "gauge",
        "boolean",
        (),
        "Whether the shared ledger answered when it was last asked.",
        _SOURCE,
    ),
    Family(
        "apportion_shared_ledger_commits_total",
        "counter",
        "transactions",
        (),
        "Commits of this agent that arrived in the shared ledger.",
        _SOURCE,
    ),
    Family(
        "apportion_shared_ledger_rows_total",
        "counter",
        "rows",
        (),
        "Rows that were sent with them, copies included.",
        _SOURCE,
    ),
    Family(
        "apportion_shared_ledger_copies_total",
        "counter",
        "copies",
        ("reason",),
        "Times that the agent's whole ledger was copied: first (shipping began), overflow (the "
        "outbox outgrew its bound), lost (the shared ledger was set back).",
        _SOURCE,
    ),
    Family(
        "apportion_shared_ledger_failures_total",
        "counter",
        "attempts",
        ("reason",),
        "Attempts that failed: unavailable, schema, diverged, refused, fault.",
        _SOURCE,
    ),
    Family(
        "apportion_shared_ledger_lag_seconds",
        "gauge",
        "seconds",
        (),
        "How long the oldest commit has waited that is not in the shared ledger. 0: all are.",
        _SOURCE,
    ),
    Family(
        "apportion_shared_ledger_copy_pending",
        "gauge",
        "boolean",
        ("reason",),
        "Everything is to be copied before commits are shipped one by one again.",
        _SOURCE,
    ),
    Family(
        "apportion_shared_ledger_disowned_seconds_total",
        "counter",
        "seconds",
        (),
        "Device time, in whole clock hours, that this agent metered although another agent held "
        "the lease. Reports leave it out.",
        _SOURCE,
    ),
    Family(
        "apportion_leases_held",
        "gauge",
        "devices",
        (),
        "Devices that are this agent's by the shared ledger.",
        _SOURCE,
    ),
    Family(
        "apportion_leases_refused",
        "gauge",
        "devices",
        (),
        "Devices that it sees and another agent holds by the shared ledger.",
        _SOURCE,
    ),
    Family("apportion_outbox_commits", "gauge", "transactions", (), "Commits that wait.", _SOURCE),
    Family(
        "apportion_outbox_bytes",
        "gauge",
        "bytes",
        (),
        "What the waiting commits take in the node's ledger.",
        _SOURCE,
    ),
)


@dataclass(slots=True)
class Figures:
    """Counted by the shipper's thread, read by others: each number is set at once."""

    connected: bool = False
    commits: int = 0
    rows: int = 0
    disowned: int = 0
    copies: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    state: ShippingState | None = None
    """None: it was not looked at yet."""

    def add(self, step: Shipped) -> None:
        """One step went well."""
        self.connected = True
        self.commits += step.commits
        self.rows += step.rows
        self.disowned += step.disowned
        if step.copied is not None:
            self.copies[step.copied.value] += 1

    def fail(self, reason: str) -> None:
        """One step did not."""
        self.connected = False
        self.failures[reason] += 1

    def samples(self, unix_ns: int) -> Iterator[Sample]:
        """Everything, at one moment."""
        yield Sample("shared_ledger_connected", int(self.connected))
        yield Sample("shared_ledger_commits_total", self.commits)
        yield Sample("shared_ledger_rows_total", self.rows)
        yield Sample("shared_ledger_disowned_seconds_total", self.disowned * SECONDS_PER_HOUR)
        for reason, count in self.copies.copy().items():
            yield Sample("shared_ledger_copies_total", count, (("reason", reason),))
        for reason, count in self.failures.copy().items():
            yield Sample("shared_ledger_failures_total", count, (("reason", reason),))
        state = self.state
        if state is None:
            return
        oldest_ns = state.oldest_unix_ns
        lag_ns = 0 if oldest_ns is None else max(0, unix_ns - oldest_ns)
        yield Sample("shared_ledger_lag_seconds", lag_ns / NS_PER_SECOND)
        if state.copy_reason is not None:
            yield Sample("shared_ledger_copy_pending", 1, (("reason", state.copy_reason.value),))
        yield Sample("outbox_commits", state.waiting)
        yield Sample("outbox_bytes", state.waiting_bytes)
