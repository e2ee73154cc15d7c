"""Engine iterations: one forward pass over a batch, by counts, as a record of the ring."""

from __future__ import annotations

from typing import Final, NamedTuple

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.records import ABSENT_BYTES, ITERATION, threads
from apportion.client.session import session
from apportion.client.status import OK

_PACKED: Final = layout.KINDS["iteration"] << layout.KIND_SHIFT | OK


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


def record(iteration: Iteration) -> None:
    """Write it down; never raises into the engine."""
    try:
        ring = session.ring or session.acquire()
        if ring is None:
            return
        end_ns = iteration.end_ns
        ring.write(
            ITERATION,
            ring.number(),
            _PACKED,
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
    except ValueError:
        count("ring_gone")
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")
