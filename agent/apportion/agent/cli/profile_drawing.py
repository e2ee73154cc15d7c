"""A trace that was just taken, drawn in money: once the ledger has settled its steps."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from apportion.agent.cli.flamegraph_build import configure_build
from apportion.agent.cli.flamegraph_inputs import FoundStacks, read_files
from apportion.agent.cli.flamegraph_ledger import priced_by_ledger
from apportion.core.category import SpanKind
from apportion.core.clock import Clock
from apportion.core.errors import ConfigError, LedgerError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.schema import ring, span, watermark
from apportion.profiles.rank_stacks import STEP

SETTLED_WITHIN_NS: Final = 60 * NS_PER_SECOND
_LOOK_NS: Final = NS_PER_SECOND // 2


def drawn(path: Path, workload: str, own_ring: str, location: str, clock: Clock) -> FoundStacks:
    """The stacks of a trace in what the ledger says of its steps; in time where it says nothing.

    It waits until the ledger is settled to the end of the last step, a minute at most.

    Raises:
        ConfigError: the trace cannot be read.
    """
    parser = argparse.ArgumentParser()
    configure_build(parser)
    # as a person would type it: all of the trace's steps
    words = [str(path), "--ledger", location, "--workload", workload, "--costliest-steps", "100"]
    options = parser.parse_args([*words, "--jobs", "1"])
    found = read_files(options, [path])
    steps = sorted({int(step) for step in found.stacks.label(STEP) if step is not None})
    if not steps:
        return found
    try:
        with LedgerReader.of(location, clock=clock) as ledger:
            until_ns, never = clock.monotonic_ns() + SETTLED_WITHIN_NS, threading.Event()
            while not _is_settled(ledger, own_ring, steps[0], steps[-1]):
                if clock.monotonic_ns() > until_ns:
                    break
                clock.wait(never, _LOOK_NS)
        return priced_by_ledger(options, found)
    except (ConfigError, LedgerError):
        return found


def _is_settled(ledger: LedgerReader, own_ring: str, first: int, last: int) -> bool:
    """Whether the steps of a ring are in the book to their end."""
    ended = (
        select(func.max(span.c.end_ns), func.max(span.c.step), func.max(ring.c.agent_id))
        .join(ring, (ring.c.agent_id == span.c.agent_id) & (ring.c.ring_key == span.c.ring_key))
        .where(
            ring.c.ring == own_ring,
            span.c.kind == int(SpanKind.STEP),
            span.c.step.between(first, last),
        )
    )
    with ledger.read() as connection:
        end_ns, known, agent_id = connection.execute(ended).one()
        if known != last:
            return False
        settled = select(func.min(watermark.c.settled_ns)).where(watermark.c.agent_id == agent_id)
        settled_ns = connection.execute(settled).scalar()
    return settled_ns is not None and settled_ns >= end_ns
