"""Which span code runs inside of, across threads, tasks and forks.

A context variable knows, but to set and reset one costs as much as to write a record. Where no
event loop runs on a thread, tasks cannot take turns inside its `with` blocks, so an outermost span
is only noted with its thread; every other one is in the context variable.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from apportion.client.records import threads
from apportion.client.ring import Ring

if TYPE_CHECKING:
    from apportion.client.span import Span

in_context: Final[ContextVar[Span | None]] = ContextVar("apportion_span", default=None)
"""The span that was entered last in a context, unless it is an outermost one noted elsewhere."""


def innermost(ring: Ring) -> Span | None:
    """The span that the caller is in, if one of this ring is open.

    One that has ended out of order is passed over, as is one of another ring: from before a fork
    or another init().
    """
    span = left = in_context.get()
    while span is not None and not span.is_in(ring):
        span = getattr(span, "above", None)  # the short way does not say that there is none
    if span is None:
        if left is not None:  # of a block that was never left: the short way would see it for ever
            in_context.set(None)
        noted = threads.facts.innermost
        span = noted if noted is not None and noted.is_in(ring) else None
    return span
