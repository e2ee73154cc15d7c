"""The composition root: the only place that wires concrete classes together."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from apportion.agent import profile_watch
from apportion.agent.adjustment_watch import AdjustmentWatch
from apportion.agent.budget_watch import BudgetWatch
from apportion.agent.capture_request import CaptureRequest
from apportion.agent.config_budgets import made_of
from apportion.agent.config_problems import load_models, load_prices
from apportion.agent.device_source import DeviceSource, beside, collector_options
from apportion.agent.http import Health, HttpService, create_app
from apportion.agent.ingest import Heartbeat
from apportion.agent.ingest.cost_file import CostFile
from apportion.agent.metrics.exposition import Exposition
from apportion.agent.metrics.rendering import MetricsText
from apportion.agent.pipeline.engine import Engine
from apportion.agent.pipeline.node_time import NodeTime, boot_id
from apportion.agent.pipeline.ownership import DeviceLocks
from apportion.agent.pipeline.processes import Processes
from apportion.agent.pipeline.sampler import Sampler
from apportion.agent.profile_store import ProfileStore
from apportion.agent.profile_watch import ProfileWatch
from apportion.agent.release import Release
from apportion.agent.ring_source import ring_directories
from apportion.agent.service import Named, RunGroup
from apportion.agent.shipping.shipper import Shipper
from apportion.agent.snapshot import SnapshotBoard
from apportion.agent.spender_watch import SpenderWatch
from apportion.agent.startup_log import log_start
from apportion.agent.upkeep import Upkeep
from apportion.collectors.observed import Observed
from apportion.collectors.registry import built_in
from apportion.core.clock import SystemClock
from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.keeping import Keep
from apportion.cost.ledger.engine import is_file, ledger_url
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.lock import LedgerLock
from apportion.cost.spenders import top_spenders

if TYPE_CHECKING:
    from apportion.agent.config import AgentConfig

NO_SPANS_NS: Final = -(1 << 61)
"""Margin with which the ledger loads no spans: settlement recalls those that it needs."""
SPENT_LATELY_NS: Final = 7 * 24 * NS_PER_HOUR
"""Who spent most in it has a label's place before anybody comes."""
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
    budgets = made_of(config.budgets, prices.currency)
    source = DeviceSource.of(config)
    log_start(config, source.found, prices.currency, os.environ, _version())
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
    shipper = _shipper(config, ledger, clock)
    locks = DeviceLocks(
        config.lock_dir,
        only=config.own or None,
        pod=config.mode == "pod",
        leases=None if shipper is None else shipper.leases,
    )
    options = collector_options(config, source.period_ns)
    make = built_in().get(source.found.collector).factory
    period_ns = max(source.period_ns // 4, 50_000_000)
    release = Release(config.state_dir, clock, time.boot)
    release.prepare()
    samplers = [
        Sampler(
            Observed(make(options, clock), clock, required=True),
            clock,
            period_ns=period_ns,
            release=release if source.found.collector == "nvml" else None,
        )
    ]
    samplers += [
        Sampler(
            Observed(each.factory(options, clock), clock, required=each.name in config.collectors),
            clock,
            period_ns=each.period_ns,
        )
        for each in beside(config)
    ]
    profiles = ProfileStore(config.state_dir / "profiles")
    watched = Observed(ProfileWatch(profiles), clock)
    samplers.append(Sampler(watched, clock, period_ns=profile_watch.PERIOD_NS))
    folder = config.labels.folder()
    folder.reserve(top_spenders(ledger, clock.realtime_ns() - SPENT_LATELY_NS))
    board = SnapshotBoard()
    watch = BudgetWatch(config.ledger_location, budgets, clock) if budgets else None
    spenders = SpenderWatch(config.ledger_location, clock)
    adjustments = AdjustmentWatch(config.ledger_location, ledger.agent_id, clock)
    directory, others = ring_directories(config, state, time, clock)
    engine = Engine(
        state,
        ledger,
        directory,
        samplers,
        time=time,
        clock=clock,
        locks=locks,
        prices=prices,
        models=load_models(config),
        processes=Processes(config.proc_root),
        folder=folder,
        board=board,
        lateness_ns=source.lateness_ns,
        sample_period_ns=source.period_ns,
        telemetry_gap_ns=config.telemetry_gap.ns,
        numbered=source.numbered,
        tick_period_ns=config.tick_period.ns,
        heartbeat=Heartbeat(
            config.ring_dir,
            clock,
            version=_version(),
            pid=os.getpid(),
            others=others,
            requests=CaptureRequest(config.state_dir, clock, time.boot).current,
        ),
        shipper=shipper,
        budgets=watch,
        adjustments=adjustments,
        costs=CostFile(config.ring_dir, clock, others=others),
        spenders=spenders,
    )
    stuck_ns = max(STUCK_TICKS * config.tick_period.ns, 60 * NS_PER_SECOND)
    health = Health(board, clock, stuck_after_ns=stuck_ns)
    text = MetricsText(board, Exposition(board, _version()))
    server = HttpService(
        create_app(text, health, _version(), profiles), config.listen_host, config.listen_port
    )
    kept = (config.keep_lines, config.keep_rollups)
    keep = Keep(*(None if each is None else each.ns for each in kept))
    upkeep = Upkeep(config.ledger_location, ledger.agent_id, keep, clock)
    # Stopped after the settlement: it ships what that committed last.
    shippers = [] if shipper is None else [shipper]
    watches: list[Named] = [adjustments, spenders, *([] if watch is None else [watch])]
    services: list[Named] = [server, upkeep, *watches, *shippers, engine, *samplers]
    group = RunGroup(services, clock, drain_ns=config.drain.ns)
    try:
        return group.run(on_stopping=board.stop)
    finally:
        ledger.close()
        lock.release()


def _shipper(config: AgentConfig, ledger: Ledger, clock: SystemClock) -> Shipper | None:
    """None where nothing is shipped: then commits wait for nobody, either."""
    if config.shared_ledger is None:
        ledger.outbox.switch_off()
        return None
    if not is_file(ledger_url(config.ledger_location)):
        raise ConfigError("shared_ledger: what is shipped must be in a file; give `ledger` a path")
    if find_spec("psycopg") is None:
        raise ConfigError(
            "shared_ledger: its driver is not installed; pip install 'apportion[postgresql]'"
        )
    from apportion.cost.ledger.shared import SharedLedger  # noqa: PLC0415 - needs that driver

    ledger.outbox.switch_on(config.outbox_bytes)
    shared = SharedLedger(config.shared_ledger, clock)
    return Shipper(ledger, shared, clock, lease_ns=config.lease.ns)


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
