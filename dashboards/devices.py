"""Activity, power, memory and health of each device."""

from __future__ import annotations

from typing import Final

from dashboards.panel import Board, Panel, Query, Row, rate, series, total

_OF: Final = "{{device}}"


def _gauge(title: str, description: str, unit: str, name: str, legend: str = _OF) -> Panel:
    return Panel(title, description, unit, (Query(series(name), legend),))


BOARD: Final = Board(
    "devices",
    "Devices",
    "Activity, power, memory, throttling and health of each device.",
    (
        Row(
            "Activity",
            (
                _gauge(
                    "Utilisation",
                    "Share of the sample period in which anything ran.",
                    "percentunit",
                    "device_utilization_ratio",
                ),
                _gauge(
                    "Multiprocessors",
                    "Share of time with a warp on a multiprocessor, over all of them.",
                    "percentunit",
                    "device_sm_active_ratio",
                ),
                _gauge(
                    "Pipes",
                    "Share of cycles in which an arithmetic pipe ran.",
                    "percentunit",
                    "device_pipe_active_ratio",
                    "{{device}} {{pipe}}",
                ),
                _gauge(
                    "Memory traffic",
                    "Share of cycles in which device memory moved data.",
                    "percentunit",
                    "device_dram_active_ratio",
                ),
                Panel(
                    "Memory in use",
                    "Of the memory that the device has.",
                    "percentunit",
                    (
                        Query(
                            f"{series('device_memory_used_bytes')}"
                            f" / {series('device_memory_size_bytes')}",
                            _OF,
                        ),
                    ),
                    highest=1,
                ),
                _gauge(
                    "Processes",
                    "Processes that compute on the device.",
                    "short",
                    "device_processes",
                ),
            ),
        ),
        Row(
            "Power and heat",
            (
                Panel(
                    "Power",
                    "Power draw, and the limit in force.",
                    "watt",
                    (
                        Query(series("device_power_watts"), _OF),
                        Query(series("device_power_limit_watts"), "limit {{device}}"),
                    ),
                ),
                Panel(
                    "Power by energy",
                    "What the energy counter rose by a second; source in the legend.",
                    "watt",
                    (Query(rate("device_energy_joules_total"), "{{device}} {{energy_source}}"),),
                ),
                _gauge("Temperature", "Of the processor.", "celsius", "device_temperature_celsius"),
                _gauge(
                    "Clocks",
                    "Frequencies now.",
                    "hertz",
                    "device_clock_hertz",
                    "{{device}} {{clock}}",
                ),
                Panel(
                    "Throttled",
                    "Share of time with lowered clocks, by reason.",
                    "percentunit",
                    (Query(rate("device_throttled_seconds_total"), "{{device}} {{reason}}"),),
                ),
                _gauge(
                    "Slowed now",
                    "What lowers the clocks at this moment.",
                    "bool",
                    "device_throttle_active",
                    "{{device}} {{reason}}",
                ),
            ),
        ),
        Row(
            "Health",
            (
                _gauge("Read", "1 while the device is being read.", "bool", "device_up"),
                Panel(
                    "Why not",
                    "Devices that cannot be read, and why.",
                    "none",
                    (Query(series("device_failure")),),
                    "table",
                    needs="a device that fails",
                ),
                Panel(
                    "XID errors",
                    "By code, since the agent started or in the kernel's log since boot.",
                    "short",
                    (
                        Query(series("device_xid_errors_total"), "{{device}} XID {{xid}}"),
                        Query(
                            series("device_kernel_xid_errors_total"),
                            "{{device}} kernel XID {{xid}}",
                        ),
                    ),
                    needs="a device that had an XID error",
                ),
                Panel(
                    "ECC errors",
                    "Errors a second.",
                    "short",
                    (
                        Query(
                            total("device, severity", rate("device_ecc_errors_total")),
                            "{{device}} {{severity}}",
                        ),
                    ),
                ),
                _gauge(
                    "Remapped rows",
                    "Rows of memory out of use.",
                    "short",
                    "device_remapped_rows",
                    "{{device}} {{severity}}",
                ),
                Panel(
                    "Waits for a reset",
                    "1 where a row could not be remapped, or waits for it.",
                    "bool",
                    (
                        Query(series("device_row_remap_failed"), "failed {{device}}"),
                        Query(series("device_row_remap_pending"), "pending {{device}}"),
                    ),
                ),
            ),
        ),
        Row(
            "Money",
            (
                Panel(
                    "Rate",
                    "The price of a device-hour in force, and what it rests on.",
                    "short",
                    (Query(series("device_rate_${currency}_per_hour"), "{{device}} {{basis}}"),),
                ),
                Panel(
                    "Age of the price",
                    "Since when the price was last known to be right.",
                    "s",
                    (Query(f"time() - {series('price_as_of_timestamp_seconds')}", _OF),),
                ),
                Panel(
                    "Allocation",
                    "The part of each device that its scheduler has given away, by owner.",
                    "percentunit",
                    (Query(series("allocation_ratio"), "{{gpu}} {{owner}}"),),
                    "stack",
                    needs="the `kubernetes` or `slurm` collector",
                ),
            ),
        ),
    ),
)
