"""Families of what settlement knows: rates, the watermark, budgets, money, energy and time."""

from __future__ import annotations

from typing import Final

from apportion.core.family import Family, Kind

DEVICE: Final = ("device",)
SPEND: Final = ("workload", "run", "model", "tenant", "category", "namespace", "pod")
PHASE: Final = ("workload", "phase")
LOST: Final = ("workload", "run", "from", "reason")
BUDGET: Final = ("budget", "period")


def settled(name: str, unit: str, labels: tuple[str, ...], text: str) -> Family:
    """A family that settlement fills; a counter where its name says so."""
    kind: Kind = "counter" if name.endswith("_total") else "gauge"
    return Family(f"apportion_{name}", kind, unit, labels, text, "settlement", simulated=True)


FAMILIES: Final = (
    # -- rates and the watermark ----------------------------------------------------------
    settled(
        "device_rate_{currency}_per_hour",
        "currency per device-hour",
        (*DEVICE, "covers", "basis"),
        "The rate in force. Absent: the device has no price.",
    ),
    settled(
        "price_as_of_timestamp_seconds",
        "seconds",
        DEVICE,
        "The date to which the device's rate was known to be right, as unix time.",
    ),
    settled(
        "device_unpriced_seconds_total",
        "seconds",
        DEVICE,
        "Settled time of the device that had no rate: quantities without amount.",
    ),
    settled(
        "settled_until_timestamp_seconds",
        "seconds",
        DEVICE,
        "The watermark: the device's time before it is charged, as unix time.",
    ),
    settled("settlement_lag_seconds", "seconds", DEVICE, "How far the watermark is behind now."),
    settled(
        "device_idle_power_watts",
        "watts",
        (*DEVICE, "state"),
        "Power at rest, as learnt: without a process, or with one that computes nothing. Absent: "
        "not seen at rest for long enough, and all energy is divided by the methods' weights.",
    ),
    # -- money, energy, time --------------------------------------------------------------
    settled(
        "cost_{currency}_total",
        "currency",
        SPEND,
        "Metered cost (time x rate) that was settled since the agent started.",
    ),
    settled(
        "energy_joules_total", "joules", SPEND, "Energy that was settled since the agent started."
    ),
    settled(
        "device_seconds_total",
        "seconds",
        SPEND,
        "Device time that was settled since the agent started.",
    ),
    settled(
        "phase_cost_{currency}_total",
        "currency",
        PHASE,
        "Cost of the phases of spans, posted when a span ends.",
    ),
    settled(
        "phase_energy_joules_total",
        "joules",
        PHASE,
        "Energy of the phases of spans, posted when a span ends.",
    ),
    settled(
        "phase_device_seconds_total",
        "seconds",
        PHASE,
        "Device time of the phases of spans, posted when a span ends.",
    ),
    *(
        settled(
            f"lost_{name}",
            unit,
            LOST,
            f"{what} of a run's work that a restart made vain, by the category that it is still "
            "counted in. Subtract it for what was kept.",
        )
        for name, unit, what in (
            ("cost_{currency}_total", "currency", "Cost"),
            ("energy_joules_total", "joules", "Energy"),
            ("device_seconds_total", "seconds", "Device time"),
        )
    ),
    settled(
        "moved_cost_{currency}_total",
        "currency",
        ("from", "to", "reason"),
        "Cost that reallocations moved. The cost counters never fall: subtract this for the net.",
    ),
    settled(
        "adjusted_cost_{currency}_total",
        "currency",
        ("category", "change", "reason"),
        "What prices that were applied to settled time, and rules of prices, changed of its cost "
        "since the agent started. The cost counters do not have it: add what was raised, subtract "
        "what was lowered.",
    ),
    settled(
        "prices_applied_timestamp_seconds",
        "seconds",
        (),
        "When prices were last applied to settled time, as unix time. Absent: never.",
    ),
    settled(
        "conservation_residual_units",
        "10^-12 of the currency",
        (),
        "Money that settlement could not place. Anything but 0 is a fault.",
    ),
    settled(
        "conservation_residual_joules",
        "joules",
        (),
        "Energy that settlement could not place. Anything but 0 is a fault.",
    ),
    # -- budgets --------------------------------------------------------------------------
    settled("budget_amount_{currency}", "currency", BUDGET, "What may be spent in each period."),
    settled(
        "budget_spent_{currency}",
        "currency",
        BUDGET,
        "What this node's ledger has spent of it in the present period, with later moves and new "
        "prices; add up the nodes. Absent: nothing that was used has a price.",
    ),
    settled(
        "budget_period_start_timestamp_seconds",
        "seconds",
        BUDGET,
        "When the present period began, as unix time.",
    ),
    settled(
        "budget_period_end_timestamp_seconds",
        "seconds",
        BUDGET,
        "When the present period ends, as unix time.",
    ),
)
