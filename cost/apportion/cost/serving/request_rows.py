"""One request as a report shows it: what it did, what it cost, and what others did for how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apportion.cost.quantity import Quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.core.category import Phase, SpanStatus


@dataclass(frozen=True, slots=True)
class Work:
    """What one request did, or several together; None where nobody said.

    `computed_tokens` are those of prompts that were not cached. `waited_ns` is the time from
    arrival to admission. `phases` is what is posted; `Phase.NONE` is the rest of the requests.
    """

    phases: Mapping[Phase, Quantity]
    computed_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    waited_ns: int | None
    duration_ns: int

    @property
    def input_tokens(self) -> int | None:
        """Of the prompts, cached ones included."""
        return (
            None
            if self.computed_tokens is None
            else self.computed_tokens + (self.cached_tokens or 0)
        )

    @property
    def total(self) -> Quantity:
        """All that is posted."""
        return sum(self.phases.values(), Quantity())


@dataclass(frozen=True, slots=True)
class Others:
    """The other requests of the same workload and model that ended in the same hour, together."""

    count: int
    work: Work


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request. `running` is what is not posted yet; `ttft_ns` counts from its arrival.

    `others` is None where it is not asked for, or nobody is beside it.
    """

    request_id: str | None
    trace_id: str | None
    workload: str | None
    tenant: str | None
    model: str | None
    status: SpanStatus
    start_unix_ns: int
    ttft_ns: int | None
    preemptions: int | None
    work: Work
    running: Quantity
    devices: tuple[str, ...]
    methods: tuple[str, ...]
    others: Others | None = None


@dataclass(frozen=True, slots=True)
class RequestReport:
    """Some requests of one ledger. currency: None where nothing has a price.

    estimated: some amount rests on a price that nobody chose. simulated: some device of the ledger
    is.
    """

    ledger: str
    currency: str | None
    estimated: bool
    simulated: bool
    requests: tuple[RequestRow, ...]
