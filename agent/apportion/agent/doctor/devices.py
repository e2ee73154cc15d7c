"""The doctor's look at the devices: which are found, what is missing, what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from apportion.agent.config import AgentConfig
from apportion.agent.config_problems import load_price_table
from apportion.agent.device_source import DeviceSource, collector_options
from apportion.agent.doctor.finding import Finding, Level
from apportion.collectors.once import collect_once
from apportion.core.clock import Clock
from apportion.core.errors import ConfigError, PriceTableError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.price_row import ESTIMATE, OLD_PRICE_DAYS
from apportion.cost.prices.built_in import BUILT_IN, NO_TABLE

_SOURCES: Final = {"nvml": "NVML", "dcgm": "dcgm-exporter", "host": "host CPU"}
_CONNECT_NS: Final = 5 * NS_PER_SECOND
_PERIOD_NS: Final = NS_PER_SECOND // 5


def examine_devices(
    config: AgentConfig, clock: Clock
) -> tuple[list[Mapping[str, Any]], list[Finding]]:
    """The devices that the configuration would meter, as `collect_once` gives them."""
    try:
        found = DeviceSource.of(config).found
    except ConfigError as refusal:
        return [], [Finding("devices", Level.FAIL, str(refusal), "see the message")]
    options = replace(
        collector_options(config, _PERIOD_NS),
        host_name=config.node,
        connect_deadline_ns=_CONNECT_NS,
    )
    result = collect_once(found.collector, options, clock)
    devices: list[Mapping[str, Any]] = result["devices"]
    source = _SOURCES[found.collector]
    if not devices:
        return [], [
            Finding(
                source,
                Level.FAIL,
                f"{found.reason}; {result['error'] or 'no device answered'}",
                "; ".join(found.missing) or "install the driver, or set `devices`",
            )
        ]
    simulated = any(device["simulated"] for device in devices)
    findings = [
        Finding(
            source,
            Level.WARN if simulated else Level.OK,
            f"{'SIMULATED: ' if simulated else ''}{len(devices)} devices; {found.reason}",
            "nothing here is real: for tests and the demo only" if simulated else "",
        )
    ]
    findings += [
        Finding("device", Level.OK, f"{device['device']} {device['name']}") for device in devices
    ]
    findings += [
        Finding(
            "device",
            Level.FAIL,
            f"{failure.get('device') or failure['index']}: {failure['reason']}",
            "see the driver's log (dmesg)",
        )
        for failure in result["failures"]
    ]
    return devices, findings


def examine_price(device: Mapping[str, Any], config: AgentConfig, clock: Clock) -> Finding:
    """Whether a device has a price now."""
    check, name = "price", str(device["name"])
    try:
        table = load_price_table(config)
    except PriceTableError as refusal:
        return Finding(check, Level.FAIL, str(refusal), "correct the price table")
    now_ns = clock.realtime_ns()
    quote = table.quote(name, config.placement, now_ns)
    rate = quote.rate
    named = config.prices not in {BUILT_IN, NO_TABLE}
    if rate is None:
        return Finding(
            check,
            Level.WARN,
            f"{name!r} has no price now ({quote.reason}): quantities without amounts",
            f"add a row to {config.prices}" if named else "set `prices` to a price table",
        )
    age_days = rate.age_days(now_ns)
    found = (
        f"{name!r}: {rate.per_hour} {rate.currency}/h, {rate.basis} of {rate.source}, "
        f"as of {rate.as_of} ({age_days} days ago)"
    )
    if rate.basis == ESTIMATE:
        remedy = "an estimate of nobody's bill: write what you pay into a table, and set `prices`"
        return Finding(check, Level.WARN, found, remedy)
    if age_days < 0:
        return Finding(check, Level.WARN, found, "correct its `as_of`: it is in the future")
    if age_days > OLD_PRICE_DAYS:
        return Finding(check, Level.WARN, found, "look the price up again")
    return Finding(check, Level.OK, found)
