"""What a step costs, how much of the time is steps, and what is lost."""

from __future__ import annotations

from typing import Final

from dashboards.panel import COST, WORKLOAD, Board, Panel, Query, Row, rate, series, share, total

_RUN: Final = 'run!=""'
_DIRECT: Final = 'category="direct"'
_STEPS: Final = 'status="ok"'

BOARD: Final = Board(
    "training",
    "Training",
    "Cost per step, time in steps, lost work, phases and communication.",
    (
        Row(
            "Steps",
            (
                Panel(
                    "Cost of a step",
                    "Direct cost over steps. Each rank counts its own steps.",
                    "short",
                    (
                        Query(
                            share(
                                "workload, run",
                                rate(COST, WORKLOAD, _RUN, _DIRECT),
                                rate("steps_total", WORKLOAD, _STEPS),
                            ),
                            "{{workload}} {{run}}",
                        ),
                    ),
                ),
                Panel(
                    "Steps",
                    "Steps a second that ended, of all ranks, by how.",
                    "short",
                    (
                        Query(
                            total("workload, status", rate("steps_total", WORKLOAD)),
                            "{{workload}} {{status}}",
                        ),
                    ),
                ),
                Panel(
                    "Cost of a million tokens",
                    "Direct cost over training tokens.",
                    "short",
                    (
                        Query(
                            "1e6 * "
                            + share(
                                "workload",
                                rate(COST, WORKLOAD, _RUN, _DIRECT),
                                rate("tokens_total", WORKLOAD, 'token_type="training"'),
                            ),
                            "{{workload}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Where the time goes",
            (
                Panel(
                    "Inside steps",
                    "Share of device time in steps, rolled-back ones included.",
                    "percentunit",
                    (
                        Query(
                            share(
                                "workload, run",
                                rate("device_seconds_total", WORKLOAD, _RUN, _DIRECT),
                                rate("device_seconds_total", WORKLOAD, _RUN),
                            ),
                            "{{workload}} {{run}}",
                        ),
                    ),
                    highest=1,
                ),
                Panel(
                    "By category",
                    "Device-seconds a second: startup, gaps, checkpoints, evaluation, idleness.",
                    "short",
                    (
                        Query(
                            total("category", rate("device_seconds_total", WORKLOAD, _RUN)),
                            "{{category}}",
                        ),
                    ),
                    "stack",
                ),
                Panel(
                    "By phase",
                    "Device-seconds a second inside steps.",
                    "short",
                    (
                        Query(
                            total("phase", rate("phase_device_seconds_total", WORKLOAD)),
                            "{{phase}}",
                        ),
                    ),
                    "stack",
                ),
            ),
        ),
        Row(
            "What is lost",
            (
                Panel(
                    "Lost",
                    "Cost that restarts moved to lost: rolled-back steps and ranks that hung.",
                    "short",
                    (
                        Query(
                            total(
                                "from, reason",
                                series("moved_cost_${currency}_total", 'to="lost"'),
                            ),
                            "{{from}} {{reason}}",
                        ),
                    ),
                    needs="a restart of a run",
                ),
                Panel(
                    "Waiting for slower ranks",
                    "Share of the time in collectives that is waiting.",
                    "percentunit",
                    (
                        Query(
                            share(
                                "instance, communicator",
                                rate("nccl_wait_seconds_total"),
                                rate("nccl_seconds_total"),
                            ),
                            "{{instance}} {{communicator}}",
                        ),
                    ),
                    needs="a distributed job (Flight Recorder or Inspector)",
                ),
                Panel(
                    "Energy of a step",
                    "Joules inside steps over steps.",
                    "joule",
                    (
                        Query(
                            share(
                                "workload, run",
                                rate("energy_joules_total", WORKLOAD, _RUN, _DIRECT),
                                rate("steps_total", WORKLOAD, _STEPS),
                            ),
                            "{{workload}} {{run}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
    by_workload=True,
)
