"""How well devices are used: rooflines' two axes, energy, and rest."""

from __future__ import annotations

from typing import Final

from dashboards.panel import COST, Board, Panel, Query, Row, rate, series, share, total

_ENGINE: Final = "an engine that estimates its work (vLLM)"

_DENSE: Final = 'precision="16bit"'

BOARD: Final = Board(
    "efficiency",
    "Roofline and efficiency",
    "Compute beside memory traffic, energy per work, and power at rest.",
    (
        Row(
            "Roofline",
            (
                Panel(
                    "Compute and memory",
                    "Tensor pipes and memory traffic as shares of the peak: the higher one "
                    "is the roof that the work is under.",
                    "percentunit",
                    (
                        Query(
                            series("device_pipe_active_ratio", 'pipe="tensor"'), "tensor {{device}}"
                        ),
                        Query(series("device_dram_active_ratio"), "memory {{device}}"),
                    ),
                    span=12,
                ),
                Panel(
                    "Busy and occupied",
                    "Utilisation says that something ran, the others how much of the device.",
                    "percentunit",
                    (
                        Query(series("device_utilization_ratio"), "utilisation {{device}}"),
                        Query(series("device_sm_active_ratio"), "multiprocessors {{device}}"),
                        Query(series("device_sm_occupancy_ratio"), "occupancy {{device}}"),
                    ),
                    span=12,
                ),
                Panel(
                    "MFU",
                    "Use of the arithmetic that devices have: by their counters at most, by what "
                    "engines estimate, and by what trainers declare.",
                    "percentunit",
                    (
                        Query(series("device_mfu_ratio"), "{{method}} {{device}}"),
                        Query(series("engine_mfu_ratio"), "{{method}} {{target}} {{model}}"),
                        Query(series("training_mfu_ratio"), "{{method}} {{workload}} {{run}}"),
                    ),
                    span=12,
                    highest=1,
                    needs="GPM or DCGM's profiling; an engine that estimates its work (vLLM); "
                    "a trainer that declares its model's size",
                ),
                Panel(
                    "MBU",
                    "Use of the memory bandwidth that devices have.",
                    "percentunit",
                    (
                        Query(series("device_mbu_ratio"), "{{method}} {{device}}"),
                        Query(series("engine_mbu_ratio"), "{{method}} {{target}} {{model}}"),
                    ),
                    span=12,
                    highest=1,
                    needs="GPM or DCGM's profiling; an engine that estimates its work (vLLM)",
                ),
                Panel(
                    "Operations for a byte",
                    "The engine's own estimates: its arithmetic intensity.",
                    "short",
                    (
                        Query(
                            share(
                                "target, model",
                                rate("engine_estimated_flops_total"),
                                rate("engine_estimated_bytes_total"),
                            ),
                            "{{target}} {{model}}",
                        ),
                    ),
                    span=12,
                    needs=_ENGINE,
                ),
                Panel(
                    "Operations a second",
                    "The engine's own estimate, per device, and the dense 16-bit peak.",
                    "flops",
                    (
                        Query(
                            f"max({series('device_peak_operations_per_second', _DENSE)})", "peak"
                        ),
                        Query(
                            total("target, model", rate("engine_estimated_flops_total")),
                            "{{target}} {{model}}",
                        ),
                    ),
                    span=12,
                    needs=_ENGINE,
                ),
            ),
        ),
        Row(
            "Energy",
            (
                Panel(
                    "Power by category",
                    "Energy that was settled, a second.",
                    "watt",
                    (Query(total("category", rate("energy_joules_total")), "{{category}}"),),
                    "stack",
                ),
                Panel(
                    "Power at rest",
                    "As learnt: without a process, or with one that computes nothing.",
                    "watt",
                    (Query(series("device_idle_power_watts"), "{{device}} {{state}}"),),
                    needs="a device that was seen at rest for long enough",
                ),
                Panel(
                    "Tokens for a joule",
                    "Tokens of spans over the energy inside them.",
                    "short",
                    (
                        Query(
                            share(
                                "workload",
                                rate("tokens_total", 'token_type!="cached_input"'),
                                rate("energy_joules_total", 'category="direct"'),
                            ),
                            "{{workload}}",
                        ),
                    ),
                ),
                Panel(
                    "Cost of a kilowatt-hour of use",
                    "All cost over all energy: high where devices are paid for and rest.",
                    "short",
                    (Query(f"3.6e6 * {share('', rate(COST), rate('energy_joules_total'))}"),),
                ),
                Panel(
                    "Power over the window",
                    "Lowest, mean and highest since the last reading, by the driver's samples.",
                    "watt",
                    (Query(series("device_power_window_watts"), "{{device}} {{statistic}}"),),
                ),
            ),
        ),
    ),
)
