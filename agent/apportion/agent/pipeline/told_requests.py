"""Which requests were told of, and by whom: a door's word of a known one is no second request.

Two tell of the same request where their workload is the same, their times meet, and they name the
same id or the same span of the caller's trace. A server's own ring goes before a door, and of two
doors the one that came first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.ingest.record import request_ids_of
from apportion.core.category import SpanKind
from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from apportion.agent.ingest.record import Flags, Records
    from apportion.cost.ledger.history import RequestRow

MOST_KNOWN: Final = 1 << 17
"""Names; what was told longest ago is forgotten."""
SLACK_NS: Final = NS_PER_SECOND
"""By so much two may differ about when a request was there."""
_KIND_MASK: Final = 0xFF


class _Telling(NamedTuple):
    ring: int
    start_ns: int
    end_ns: int


class ToldRequests:
    """The latest requests of all rings, by what names them. Rings are keys of the settlement."""

    def __init__(self) -> None:
        self._by_name: OrderedDict[int, _Telling] = OrderedDict()

    def restore(self, told: Iterable[RequestRow], anchor_ns: int) -> None:
        """What the ledger knows; its times are `anchor_ns` ahead of the host's clock."""
        for workload, ring, request_id, start_ns, end_ns in told:
            telling = _Telling(ring, start_ns - anchor_ns, end_ns - anchor_ns)
            self._add(hash((workload, request_id)), telling)

    def add(self, workload: str | None, ring: int, records: Records) -> None:
        """A ring has told of these requests; other kinds of spans are left out."""
        starts, ends = records["start_ns"].tolist(), records["end_ns"].tolist()
        for index, names in names_of(workload, records):
            for name in names:
                self._add(name, _Telling(ring, starts[index], ends[index]))

    def known(self, workload: str | None, ring: int, records: Records) -> Flags:
        """Of which of these requests another ring has told."""
        found = np.zeros(records.size, np.bool_)
        starts, ends = records["start_ns"].tolist(), records["end_ns"].tolist()
        for index, names in names_of(workload, records):
            tellings = (self._by_name.get(name) for name in names)
            found[index] = any(
                told is not None
                and told.ring != ring
                and told.start_ns - SLACK_NS <= ends[index]
                and starts[index] <= told.end_ns + SLACK_NS
                for told in tellings
            )
        return found

    def keep(self, most: int) -> None:
        """Forget what was told longest ago, beyond so many names."""
        while len(self._by_name) > most:
            self._by_name.popitem(last=False)

    def _add(self, name: int, told: _Telling) -> None:
        before = self._by_name.pop(name, None)
        if before is not None:  # a caller may give each of its requests the same id
            told = _Telling(
                told.ring,
                min(told.start_ns, before.start_ns),
                max(told.end_ns, before.end_ns),
            )
        self._by_name[name] = told
        self.keep(MOST_KNOWN)


def names_of(workload: str | None, records: Records) -> Iterator[tuple[int, list[int]]]:
    """By the index of a request what it can be known by, as hashes: an id can be any text."""
    kinds = records["packed"].astype(np.int64) & _KIND_MASK
    requests = (kinds == int(SpanKind.REQUEST)) & (records["parent"] == 0)
    if not requests.any():
        return
    ids = request_ids_of(records["request_id"])
    traces, parents = records["trace_id"].tolist(), records["trace_parent"].tolist()
    for index in np.flatnonzero(requests).tolist():
        text, trace, parent = ids[index], bytes(traces[index]), bytes(parents[index])
        names = [hash((workload, text))] if text else []
        if any(trace) and any(parent):
            names.append(hash((workload, trace, parent)))
        yield index, names
