"""One engine of a server, and the requests that were in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apportion.agent.pipeline.reapportion import MAX_ROOTS, charged_roots
from apportion.agent.pipeline.ring_state import NO_ROOTS
from apportion.core.category import Category, SpanKind
from apportion.cost.methods.names import BY_NEED
from apportion.cost.settlement.work import picked

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.ledger.history import History, RootRow
    from apportion.cost.settlement.work import Roots

    Column = NDArray[np.int64]


class ServingEngine(NamedTuple):
    """An engine of a server: its devices, the server's workload, and its index there."""

    group: int
    workload: str | None
    engine: int


def may_be_in(
    requests: Roots, engine: ServingEngine, engines: Collection[ServingEngine]
) -> NDArray[np.bool_]:
    """Of which requests nothing says that they were in another of `engines`."""
    beside = [each for each in engines if each[:2] == engine[:2]]
    said = requests["engine"]
    found: NDArray[np.bool_] = (said == engine.engine + 1) | (said < 0)
    if len(beside) == 1:
        found |= said == 0
    return found


def requests_of(
    roots: Roots,
    engine: ServingEngine,
    engines: Collection[ServingEngine],
    rings: Sequence[RingState],
) -> Column:
    """Places of the requests that may be in an engine and are divided by need."""
    chosen = np.isin(roots["ring"], [ring.key for ring in rings])
    chosen &= (roots["category"] == int(Category.DIRECT)) & np.isin(roots["method"], BY_NEED)
    chosen &= (roots["group"] == engine.group) & may_be_in(roots, engine, engines)
    return np.flatnonzero(chosen)


def unplaced(roots: Roots, engine: ServingEngine, rings: Sequence[RingState]) -> Column:
    """Places of requests that have all devices of the server, since their engine is not known."""
    chosen = np.isin(roots["ring"], [ring.key for ring in rings]) & (roots["engine"] < 0)
    return np.flatnonzero(chosen & (roots["group"] != engine.group))


def charged_beside(
    requests: Roots,
    engine: ServingEngine,
    engines: Collection[ServingEngine],
    rings: Sequence[RingState],
    history: History,
) -> Roots:
    """Requests that ran in an engine beside `requests`, out of the ledger."""
    if not requests.size:
        return NO_ROOTS
    by_key = {ring.key: ring for ring in rings}
    period = (int(requests["start_ns"].min()), int(requests["end_ns"].max()))
    found = [row for row in history.roots(by_key, *period, most=MAX_ROOTS) if _is_request(row)]
    parts = [
        ring.by_group(charged_roots(ring, [row for row in found if row.ring == key]))
        for key, ring in by_key.items()
    ]
    beside = np.concatenate([NO_ROOTS, *parts])
    mine = (beside["group"] == engine.group) & may_be_in(beside, engine, engines)
    return picked(beside, mine)


def _is_request(row: RootRow) -> bool:
    return row.kind == SpanKind.REQUEST
