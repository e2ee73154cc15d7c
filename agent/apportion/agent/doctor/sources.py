"""The doctor's look at the sources beside the devices: each is read once, as the agent would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from apportion.agent.config import AgentConfig
from apportion.agent.device_source import beside, collector_options
from apportion.agent.doctor.finding import Finding, Level
from apportion.collectors.once import collect_once
from apportion.core.clock import Clock
from apportion.core.units import NS_PER_SECOND

_CONNECT_NS: Final = 5 * NS_PER_SECOND
_DOORS: Final = frozenset({"otlp", "sglang"})
"""To start one would take what comes in the agent's place; see `examine_doors`."""
_PERIOD_NS: Final = NS_PER_SECOND // 1_000


def examine_sources(config: AgentConfig, clock: Clock) -> list[Finding]:
    """Each collector that the configuration runs: its paths, sockets and URLs are tried.

    Doors are left alone. What is absent on this machine is no fault where nobody has asked for it.
    """
    options = replace(collector_options(config, _PERIOD_NS), connect_deadline_ns=_CONNECT_NS)
    return [
        _finding(each.name, collect_once(each.name, options, clock), config)
        for each in beside(config)
        if each.name not in _DOORS
    ]


def _finding(name: str, result: Mapping[str, Any], config: AgentConfig) -> Finding:
    check = f"collector {name}"
    if result["error"] is None:
        return Finding(check, Level.OK, f"{len(result['samples'])} series")
    if result["absent"] and name not in config.collectors:
        return Finding(check, Level.OK, f"nothing to read here: {result['error']}")
    remedy = "see the message, or take it out of `collectors`"
    return Finding(check, Level.FAIL, result["error"], remedy)
