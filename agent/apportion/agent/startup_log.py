"""The first lines of the agent's log: what it meters, at which prices, and where it keeps what."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from apportion.cost.prices.built_in import BUILT_IN, NO_TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.agent.config import AgentConfig
    from apportion.collectors.discovery import Discovery

_LOG: Final = logging.getLogger(__name__)
SIMULATOR_STATE: Final = "APPORTION_SIMULATOR_STATE"
"""By it the simulator's library finds its devices; whoever sets it expects them."""


def log_start(
    config: AgentConfig,
    found: Discovery,
    currency: str | None,
    environment: Mapping[str, str],
    version: str,
) -> None:
    """Say what the agent was started with; a warning where it may not be what was meant."""
    _LOG.info("apportion %s, node %s, mode %s", version, config.node, config.mode)
    _LOG.info(
        "ledger %s, state in %s, rings in %s, locks in %s",
        config.masked_ledger,
        config.state_dir,
        config.ring_dir,
        config.lock_dir,
    )
    if config.prices == BUILT_IN:
        _LOG.warning("prices: the built-in estimates; name what you pay in a table, `prices`")
    elif config.prices == NO_TABLE:
        _LOG.info("prices: none, quantities without amounts")
    else:
        _LOG.info("prices: %s, in %s", config.prices, currency or "no currency")
    _LOG.info("devices: %s", found.reason)
    if SIMULATOR_STATE in environment and config.devices != "simulator":
        _LOG.warning(
            "%s is set and `devices` is %s: say `--devices simulator` to meter SIMULATED GPUs, or "
            "unset it",
            SIMULATOR_STATE,
            config.devices,
        )
