"""The composition root: the only place that wires concrete classes together."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from apportion.agent.config_problems import load_prices
from apportion.agent.http import Health, HttpService, create_app
from apportion.agent.ingest import ClockPair, Heartbeat, Position, RingDirectory
from apportion.agent.metrics.exposition import Exposition
from apportion.agent.metrics.labels import LabelFolder
from apportion.agent.metrics.rendering import MetricsText
from apportion.agent.pipeline.engine import Engine
from apportion.agent.pipeline.node_time import NodeTime, boot_id
from apportion.agent.pipeline.ownership import DeviceLocks
from apportion.agent.pipeline.processes import Processes
from apportion.agent.pipeline.restore import read_position
from apportion.agent.pipeline.sampler import Sampler
from apportion.agent.service import RunGroup
from apportion.agent.snapshot import SnapshotBoard
from apportion.agent.upkeep import Upkeep
from apportion.collectors.discovery import discover
from apportion.collectors.observed import Observed
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import built_in
from apportion.core.clock import SystemClock
from apportion.core.ids import RingId
from apportion.core.units import NS_PER_SECOND
from apportion.cost.keeping import Keep
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.lock import LedgerLock
from apportion.cost.methods.model_catalogue import model_facts

if TYPE_CHECKING:
    from apportion.agent.config import AgentConfig
    from apportion.cost.ledger.batch import LedgerState

_LOG: Final = logging.getLogger(__name__)
NO_SPANS_NS: Final = -(1 << 61)
"""Margin with which the ledger loads no spans: settlement recalls those that it needs."""
STUCK_TICKS: Final = 6
"""The settlement thread is stuck when it shows no life for this many ticks."""


def run(config: AgentConfig) -> int:
    """Run the agent in the foreground until SIGTERM or SIGINT; returns its exit status.

    Raises:
        ApportionError: something that a person can mend stands in the way of starting.
    """
    _log_to_stderr(config.log_level)
    clock = SystemClock()
    prices = load_prices(config)
    found = discover(config.devices, sys_root=config.sys_root, proc_root=config.proc_root)
    _LOG.info("devices: %s", found.reason)
    lock = LedgerLock.take(config.ledger_location)
    ledger = Ledger.open(
        config.ledger_location,
        node=config.node,
        cluster=config.cluster,
        currency=prices.currency,
        version=_version(),
        clock=clock,
    )
    state = ledger.load_state(NO_SPANS_NS)
    time = NodeTime.of_ledger(boot_id(config.proc_root), clock, state)
    locks = DeviceLocks(config.lock_dir, only=config.own or None, pod=config.mode == "pod")
    folder = LabelFolder(
        {
            "workload": config.labels.max_workloads,
            "run": config.labels.max_runs,
            "tenant": config.labels.max_tenants,
            "model": config.labels.max_models,
        }
    )
    options = CollectorOptions(
        proc_root=config.proc_root, sys_root=config.sys_root, period_ns=config.sample_period.ns
    )
    registration = built_in().get(found.collector)
    collector = Observed(registration.factory(options, clock), clock)
    sampler = Sampler(collector, clock, period_ns=max(config.sample_period.ns // 4, 50_000_000))
    board = SnapshotBoard()
    engine = Engine(
        state,
        ledger,
        _directory(config, state, time, clock),
        [sampler],
        time=time,
        clock=clock,
        locks=locks,
        prices=prices,
        models={name: model_facts(where) for name, where in config.models.items()},
        processes=Processes(config.proc_root),
        folder=folder,
        board=board,
        lateness_ns=config.lateness.ns,
        sample_period_ns=config.sample_period.ns,
        tick_period_ns=config.tick_period.ns,
        heartbeat=Heartbeat(config.ring_dir, clock, version=_version(), pid=os.getpid()),
    )
    stuck_ns = max(STUCK_TICKS * config.tick_period.ns, 60 * NS_PER_SECOND)
    health = Health(board, clock, stuck_after_ns=stuck_ns)
    text = MetricsText(board, Exposition(board, _version()))
    server = HttpService(
        create_app(text, health, _version()), config.listen_host, config.listen_port
    )
    keep = Keep(*(kept and kept.ns for kept in (config.keep_lines, config.keep_rollups)))
    upkeep = Upkeep(config.ledger_location, ledger.agent_id, keep, clock)
    group = RunGroup([server, upkeep, engine, sampler], clock, drain_ns=config.drain.ns)
    try:
        return group.run(on_stopping=board.stop)
    finally:
        ledger.close()
        lock.release()


def _directory(
    config: AgentConfig, state: LedgerState, time: NodeTime, clock: SystemClock
) -> RingDirectory:
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
    return RingDirectory(
        config.ring_dir,
        clock,
        allowed_uids=frozenset(config.ring_uids) or None,
        restore=restore,
        boot_id=bytes.fromhex(time.boot),
        gid=config.ring_gid,
        clock_pairs=pairs,
        proc=config.proc_root,
    )


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )


def _version() -> str:
    try:
        return version("apportion")
    except PackageNotFoundError:  # the tree, not installed
        return "0+unknown"
