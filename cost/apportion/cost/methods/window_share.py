"""The running agent's way to share an instant: by needs where they are known, else evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.apportionment import WEIGHT_BITS, TimeShare, Weights
from apportion.cost.methods.occupancy import Occupancy

if TYPE_CHECKING:
    from apportion.cost.apportionment import Claims, Division, Pieces
    from apportion.cost.methods.trace import Column

_EVENLY: Final = TimeShare()


class WindowShare:
    """`roofline-windows/1` for claims with needs; without any among them, `time-share/1`.

    Claims without needs (a step beside requests, a request of an unknown model) get their part
    of what nobody needs for himself.
    """

    def cuts(self, claims: Claims) -> Column:
        """See `Apportioner`."""
        if claims.windows is None:
            return np.zeros(0, np.int64)
        return np.concatenate([claims.windows.begun_ns, claims.windows.first_token_ns])

    def division(self, pieces: Pieces) -> Division:
        """See `Apportioner`."""
        windows = pieces.claims.windows
        if windows is None or not (windows.prefill_own.any() or windows.decode_own.any()):
            return _EVENLY.division(pieces)
        first, last, size = pieces.first, pieces.last, pieces.first.size
        begun = np.clip(np.searchsorted(pieces.edges_ns, windows.begun_ns), first, last)
        token = np.clip(np.searchsorted(pieces.edges_ns, windows.first_token_ns), begun, last)
        starts, ends = np.concatenate([begun, token]), np.concatenate([token, last])
        own = np.concatenate([windows.prefill_own, windows.decode_own])
        by_need = Occupancy.of(starts, ends, own, pieces.sharing.size)
        waiting = Occupancy.of(first, begun, None, pieces.sharing.size)

        def divide(steps: Column) -> Weights:
            given = by_need.weights(steps, WEIGHT_BITS)
            waited = waiting.weights(np.where(by_need.present > 0, 0, steps), WEIGHT_BITS)
            prefill = given[:size] + waited
            return Weights(prefill + given[size:], prefill)

        return divide
