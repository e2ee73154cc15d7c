"""What the client ignored or could not do, by reason: it never raises into a workload, nor prints.

Two threads that count the same reason at the same instant may count it once.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Reason: TypeAlias = Literal[
    "argument_ignored",  # an argument of init() with a wrong type or an impossible value
    "arrival_ignored",  # arrival_ns that is not a plain int in the past
    "capture_failed",  # a trace that was asked for could not be taken or written
    "counter_ignored",  # add() with an unknown name, no plain int, or an impossible value
    "ring_gone",  # a span whose ring was closed under it, or is the parent's of a forked child
    "dump_failed",  # the Flight Recorder could not be dumped: no further try
    "dump_too_dear",  # its dumps cost more than a thousandth of the time: no further one
    "engine_late",  # an engine told of a request whose record was written already
    "engine_silent",  # an engine did not tell of a request that was answered
    "engine_unknown",  # an engine's statistics that this version does not understand
    "span_dropped",  # start() whose span nobody held any more: ended as cancelled
    "events_failed",  # CUDA events of phases: no further one, phases have the host's clock only
    "identity_shortened",  # an identity that did not fit the header
    "ids_not_hashed",  # an id that was to be hashed where the key cannot be read: it has none
    "internal_error",  # a defect of the client
    "label_ignored",  # a tenant, model or adapter that is not a string
    "member_too_late",  # member() in a process that has had spans
    "names_folded",  # a tenant, model or adapter that became `other`: there are too many
    "parallel_too_late",  # an engine said how it is spread when its process had had spans
    "not_open",  # phase(), scheduled(), first_token() or add() on a span that is not open
    "opentelemetry_missing",  # init(otel=True) where it cannot be imported
    "phase_ignored",  # a phase name that is not in the closed set
    "request_id_ignored",  # a request id that is neither a string, an int nor a UUID
    "ring_failed",  # a ring could not be made: session.problem says why
    "span_reused",  # a span that was started or entered again after its end
    "status_unknown",  # finish() with another status: recorded as error
    "step_ignored",  # a step number that is not a plain int from 0 to 2^53 - 1
    "torch_too_old",  # torch_steps() with a PyTorch before 2.0, whose optimizers have no hooks
    "tenants_unknown",  # a variable of the ASGI middleware that cannot be: no request has a tenant
    "traceparent_ignored",  # a malformed W3C traceparent
    "usage_missing",  # an answer through the ASGI middleware without its token counts
]

_counts: dict[str, int] = {}


def count(reason: Reason) -> None:
    """Add one to a reason."""
    _counts[reason] = _counts.get(reason, 0) + 1


def counts() -> dict[str, int]:
    """How often each reason held in this process so far; reasons that never held are absent."""
    return dict(_counts)


def forget_counts() -> None:
    """Begin at nothing again, as a forked child does."""
    _counts.clear()
