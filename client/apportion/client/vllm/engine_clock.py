"""When an engine's iterations ended, which nobody says: they are only heard of, some time later."""

from __future__ import annotations


class EngineClock:
    """Takes the delays out that iterations are heard of with, as far as that can be known.

    A server that is busy hears of several at once, long after they ended. How far apart they ended
    is known by the engine's own clock: so one ended no later than so long after the one before it,
    and no later than it was heard of.
    """

    def __init__(self) -> None:
        self._end_ns = 0

    def ended(self, heard_ns: int, apart_ns: int) -> int:
        """When the iteration ended that was heard of at `heard_ns`, by the same clock.

        `apart_ns`: how long after the one before it; 0 where not known.
        """
        end_ns = heard_ns
        if apart_ns and self._end_ns:
            end_ns = min(heard_ns, self._end_ns + apart_ns)
        self._end_ns = end_ns = max(end_ns, self._end_ns)
        return end_ns
