"""The metric families of the NVML collector, beside those that DCGM can fill as well."""

from __future__ import annotations

from typing import Final

from apportion.core.family import Family, Kind


def _device(name: str, unit: str, text: str, *labels: str) -> Family:
    kind: Kind = "counter" if name.endswith("_total") else "gauge"
    return Family(
        f"apportion_device_{name}", kind, unit, ("device", *labels), text, "nvml", simulated=True
    )


def _source(name: str, unit: str, text: str, *labels: str) -> Family:
    kind: Kind = "counter" if name.endswith("_total") else "gauge"
    return Family(f"apportion_nvml_{name}", kind, unit, labels, text, "nvml")


FAMILIES: Final[tuple[Family, ...]] = (
    _device(
        "source_info",
        "",
        "Where a device's energy, power and activity come from, always 1.",
        *("energy_source", "power_source", "activity_source"),
    ),
    _device("throttle_active", "boolean", "Whether this lowers the clocks now.", "reason"),
    _device(
        "power_window_watts",
        "watts",
        "Power since the last reading, by the driver's own samples.",
        "statistic",
    ),
    _device(
        "ecc_lifetime_errors_total", "errors", "ECC errors over the device's life.", "severity"
    ),
    _device("retired_pages", "pages", "Pages of memory that were retired.", "severity"),
    _device("page_retirement_pending", "boolean", "Whether a reset will retire pages."),
    _device("row_remap_pending", "boolean", "Whether a reset will remap rows."),
    _device(
        "recovery_action", "", "What the driver asks for to make the device well, 1.", "action"
    ),
    _device("nvlink_errors_total", "errors", "Errors of all NVLinks.", "counter"),
    _device("pcie_link_generation", "", "Generation of the PCIe link.", "bound"),
    _device("pcie_link_width", "lanes", "Width of the PCIe link.", "bound"),
    _device("processes", "processes", "Processes that compute on the device."),
    _device(
        "events_total",
        "events",
        "Events that the driver reported since the agent started.",
        "event",
    ),
    _device(
        "event_last_timestamp_seconds",
        "seconds",
        "When such an event was last reported, as unix time.",
        "event",
    ),
    _device(
        "xid_last_timestamp_seconds",
        "seconds",
        "When an XID error was last reported, as unix time.",
        "xid",
    ),
    _source("restarts_total", "processes", "Times that the process which reads NVML was replaced."),
    _source("sweep_seconds", "seconds", "How long the last reading of all devices took."),
    _source("sweep_lateness_seconds", "seconds", "How long after its due time it began."),
)
