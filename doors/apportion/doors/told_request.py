"""A request as a door was told of it, whatever the door."""

from __future__ import annotations

from typing import Final, NamedTuple

NO_TRACE: Final = bytes(16)
NO_PARENT: Final = bytes(8)


class ToldRequest(NamedTuple):
    """A finished request of `service`. Times are unix nanoseconds, None where nobody said them.

    `trace` and `parent` are the ids of a trace and of the caller's span in it, all zero for none.
    `status` is a name of `layout.STATUSES`; input tokens include those that were cached.
    `engine` is the index of the one that served it.
    """

    service: str
    request_id: str
    start_ns: int
    end_ns: int
    trace: bytes = NO_TRACE
    parent: bytes = NO_PARENT
    tenant: str | None = None
    model: str | None = None
    adapter: str | None = None
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    preemptions: int | None = None
    status: str = "ok"
    engine: int | None = None


class Malformed(NamedTuple):
    """What says that it is a request and cannot be one."""

    reason: str
