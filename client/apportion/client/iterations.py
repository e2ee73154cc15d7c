"""Engine iterations: one forward pass over a batch, by counts or by request, as ring records."""

from __future__ import annotations

from time import monotonic_ns
from typing import Final, NamedTuple

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.encoding import request_id_field
from apportion.client.id_hashing import hashed_ids
from apportion.client.records import ABSENT_BYTES, ITERATION, SCHEDULED, threads
from apportion.client.ring import Ring
from apportion.client.session import session
from apportion.client.status import OK

_ITERATION: Final = layout.KINDS["iteration"] << layout.KIND_SHIFT | OK
_EXACT: Final = _ITERATION | layout.FLAG_EXACT << layout.FLAGS_SHIFT
_SCHEDULED: Final = layout.KINDS["scheduled"] << layout.KIND_SHIFT | OK


class Iteration(NamedTuple):
    """What an engine says of one iteration. `end_ns` is by `time.monotonic_ns()`.

    `engine` and `number` name it: the data-parallel engines of a server count from 0 each, and any
    of the server's processes may hear of it.
    """

    engine: int
    number: int
    end_ns: int
    elapsed_ns: int
    prefill_requests: int
    prefill_tokens: int
    decode_requests: int
    decode_tokens: int


class Scheduled(NamedTuple):
    """Iterations in a row in which a request was scheduled with as many tokens each.

    `context` is how many were computed before the first; `start_ns` when that began.
    """

    request_id: str
    engine: int
    first: int
    iterations: int
    tokens: int
    context: int
    start_ns: int


def record_scheduled(scheduled: Scheduled) -> None:
    """Write it down; never raises into the engine."""
    try:
        ring = session.ring or session.acquire()
        if ring is None:
            return
        name: object = scheduled.request_id
        if hashed_ids.on:
            name = hashed_ids.request_id(name)
        ring.write(
            SCHEDULED,
            ring.number(),
            _SCHEDULED,
            scheduled.start_ns,
            max(scheduled.start_ns, monotonic_ns()),
            scheduled.first,
            scheduled.tokens,
            scheduled.context,
            ABSENT_BYTES * 2,
            scheduled.iterations,
            ABSENT_BYTES * 2,
            scheduled.engine,
            threads.facts.native_id,
            *request_id_field(name),
        )
    except ValueError:
        count("ring_gone")
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")


def record(iteration: Iteration, *, exact: bool = False) -> None:
    """Write it down; never raises into the engine.

    `exact`: `record_scheduled` says who was in it.
    """
    try:
        ring = session.ring or session.acquire()
        if ring is None:
            return
        write(ring, iteration, exact=exact)
    except ValueError:
        count("ring_gone")
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")


def write(ring: Ring, iteration: Iteration, *, exact: bool = False) -> None:
    """Write it into a ring; see `record`.

    Raises:
        ValueError: the ring is closed.
    """
    end_ns = iteration.end_ns
    ring.write(
        ITERATION,
        ring.number(),
        _EXACT if exact else _ITERATION,
        max(1, end_ns - max(0, iteration.elapsed_ns)),
        end_ns,
        iteration.number,
        iteration.prefill_tokens,
        ABSENT_BYTES,
        iteration.decode_tokens,
        ABSENT_BYTES,
        iteration.prefill_requests,
        iteration.decode_requests,
        ABSENT_BYTES,
        iteration.engine,
        threads.facts.native_id,
    )
