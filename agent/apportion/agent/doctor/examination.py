"""Everything that the doctor looks at, in the order in which the daemon would need it."""

from __future__ import annotations

from apportion.agent.config_layers import LoadedConfig
from apportion.agent.config_problems import config_problems
from apportion.agent.config_secrets import mask_url
from apportion.agent.doctor.devices import examine_devices, examine_price
from apportion.agent.doctor.doors import examine_doors
from apportion.agent.doctor.finding import Finding, Level
from apportion.agent.doctor.ledger import examine_ledger
from apportion.agent.doctor.ownership import examine_ownership
from apportion.agent.doctor.rings import (
    examine_heartbeat,
    examine_pods,
    examine_ring_directory,
    examine_unbound,
)
from apportion.agent.doctor.shared_ledger import examine_shared_ledger
from apportion.agent.doctor.sources import examine_sources
from apportion.core.clock import Clock


def examine(loaded: LoadedConfig, clock: Clock, *, uid: int) -> list[Finding]:
    """Look at everything; it takes a few seconds.

    `uid` is the user as whom the daemon would run: this process's own.
    """
    config = loaded.config
    devices, findings = examine_devices(config, clock)
    heartbeat = examine_heartbeat(config.ring_dir, clock)
    agent_runs = heartbeat.level is Level.OK
    return [
        *_config(loaded),
        *examine_ring_directory(config.ring_dir, uid, has_pods=config.pods_dir is not None),
        *examine_pods(config.pods_dir),
        heartbeat,
        *(examine_unbound(config.ring_dir, config.pods_dir) if agent_runs else []),
        *findings,
        *examine_sources(config, clock),
        *examine_doors(config, agent_runs=agent_runs),
        *(examine_price(device, config, clock) for device in devices),
        *examine_ownership(config, devices),
        *examine_ledger(config.ledger_location, config.masked_ledger),
        *_shared_ledger(config.shared_ledger, clock),
    ]


def _shared_ledger(location: str | None, clock: Clock) -> list[Finding]:
    return [] if location is None else examine_shared_ledger(location, mask_url(location), clock)


def _config(loaded: LoadedConfig) -> list[Finding]:
    findings = [
        Finding("config", Level.WARN, warning, "rename or unset it") for warning in loaded.warnings
    ]
    findings += [
        Finding("config", Level.FAIL, problem, "see `apportion check-config`")
        for problem in config_problems(loaded)
    ]
    return findings or [Finding("config", Level.OK, f"read from {_sources(loaded)}")]


def _sources(loaded: LoadedConfig) -> str:
    """Where keys were set: the file, variables, flags."""
    file = [] if loaded.path is None else [str(loaded.path)]
    origins = {origin for origin in loaded.origins.values() if origin != "default"}
    others = sorted(each for each in origins if not file or not each.startswith(f"{file[0]}:"))
    return ", ".join([*file, *others]) or "defaults only"
