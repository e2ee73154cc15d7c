"""When an engine's iterations ended, which nobody says: they are only heard of, some time later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_NS: Final = 1e9


class EngineClock:
    """Takes the delays out that an iteration is heard of with, as far as that can be known.

    vLLM tells, by the engine's own clock, how long before each token the same request had its last
    one: that is how far apart two iterations ended. So an iteration ended no later than the last
    one did and so long after it, and no later than it was heard of. A server that is busy hears
    of several at once, much later than they ended.
    """

    def __init__(self) -> None:
        self._end_ns = 0

    def ended(self, heard_ns: int, since_last_token_s: Sequence[float]) -> int:
        """When the iteration ended that was heard of at `heard_ns`, by the same clock.

        `since_last_token_s`: for each token in it but first ones, how long after the one before.
        """
        end_ns = heard_ns
        if since_last_token_s and self._end_ns:
            end_ns = min(heard_ns, self._end_ns + round(min(since_last_token_s) * _NS))
        self._end_ns = end_ns = max(end_ns, self._end_ns)
        return end_ns
