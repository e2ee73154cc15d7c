"""Where rings are followed: in the agent's own directory, and in those of a node's pods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from apportion.agent.ingest import ClockPair, PodDirectories, Position, RingDirectory
from apportion.agent.pipeline.restore import read_position
from apportion.core.ids import RingId

if TYPE_CHECKING:
    from apportion.agent.config import AgentConfig
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.core.clock import Clock
    from apportion.cost.ledger.batch import LedgerState


def ring_directories(
    config: AgentConfig, state: LedgerState, time: NodeTime, clock: Clock
) -> tuple[RingDirectory | PodDirectories, Callable[[], Iterable[Path]]]:
    """Where rings are, and where beside `ring_dir` workloads look for a heartbeat."""
    names = {row[0]: row[1] for row in state.tables.get("ring", [])}
    restore = {
        RingId(names[key]): Position.from_json(position)
        for key, text, *_ in state.tables.get("ring_position", [])
        if (position := read_position(text)) is not None
    }
    pairs = [
        ClockPair(since_ns - time.anchor_ns, since_ns + offset_ns)
        for since_ns, offset_ns in state.tables.get("wall_offset", [])
    ]
    follow = partial(
        RingDirectory,
        clock=clock,
        allowed_uids=frozenset(config.ring_uids) or None,
        restore=restore,
        boot_id=bytes.fromhex(time.boot),
        proc=config.proc_root,
    )
    own = follow(config.ring_dir, gid=config.ring_gid, clock_pairs=pairs)
    if config.pods_dir is None:
        return own, tuple

    def of_pod(path: Path, own: RingDirectory) -> RingDirectory:
        return follow(path, make=False, scratch=own.scratch, clock_pairs=own.clock_pairs)

    directories = PodDirectories(own, config.pods_dir, clock, of_pod)
    return directories, lambda: directories.paths
