"""What a step costs, how much of the time is steps, and what is lost."""

from __future__ import annotations

from typing import Final

from dashboards.panel import (
    COST,
    RUN,
    WORKLOAD,
    Board,
    Panel,
    Query,
    Row,
    latency,
    rate,
    series,
    share,
    spent,
    total,
)

_DIRECT: Final = 'category="direct"'
_STEPS: Final = 'status="ok"'
_SIZE: Final = "a trainer that declares its model's size"

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
                                rate(COST, WORKLOAD, RUN, _DIRECT),
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
                                rate(COST, WORKLOAD, RUN, _DIRECT),
                                rate("tokens_total", WORKLOAD, 'token_type="training"'),
                            ),
                            "{{workload}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "How long steps take",
            (
                latency(
                    "Time of a step",
                    "Of steps that ended well, by rank: a rank that waits takes as long.",
                    "step_seconds",
                    "run",
                    RUN,
                ),
                latency(
                    "Time of a phase",
                    "Of phases of steps and requests, by the host's clock.",
                    "phase_seconds",
                    "phase",
                    needs="phases in steps or requests",
                ),
            ),
        ),
        Row(
            "How well devices are used",
            (
                Panel(
                    "MFU",
                    "Model FLOPs over what the devices could do in the time of the steps.",
                    "percentunit",
                    (
                        Query(
                            share(
                                "workload, run",
                                rate("training_flops_total", WORKLOAD, RUN),
                                rate("training_possible_flops_total", WORKLOAD, RUN),
                            ),
                            "{{workload}} {{run}}",
                        ),
                    ),
                    span=12,
                    needs=_SIZE,
                    highest=1,
                ),
                Panel(
                    "Operations",
                    "Floating-point operations a second, by tokens and the model's size.",
                    "flops",
                    (
                        Query(
                            total("workload, run", rate("training_flops_total", WORKLOAD, RUN)),
                            "{{workload}} {{run}}",
                        ),
                    ),
                    span=12,
                    needs=_SIZE,
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
                                rate("device_seconds_total", WORKLOAD, RUN, _DIRECT),
                                rate("device_seconds_total", WORKLOAD, RUN),
                            ),
                            "{{workload}} {{run}}",
                        ),
                    ),
                    highest=1,
                ),
                Panel(
                    "Goodput",
                    "The same less steps that were lost, since the agent started.",
                    "percentunit",
                    (
                        Query(
                            series("goodput_ratio", WORKLOAD, RUN),
                            "{{workload}} {{run}} {{instance}}",
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
                            total("category", rate("device_seconds_total", WORKLOAD, RUN)),
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
                    "Lost by run",
                    "Device time that restarts made vain in the chosen time, by why.",
                    "s",
                    (
                        Query(
                            total(
                                "workload, run, reason",
                                spent("lost_device_seconds_total", WORKLOAD, RUN),
                            ),
                            "{{workload}} {{run}} {{reason}}",
                        ),
                    ),
                ),
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
                                rate("energy_joules_total", WORKLOAD, RUN, _DIRECT),
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
    by_run=True,
)
