"""Money now: what is spent, on whom, and what is idle."""

from __future__ import annotations

from typing import Final

from dashboards.panel import COST, Board, Panel, Query, Row, rate, series, share, spent, total

_RUN: Final = 'run!=""'
_PAGE: Final = "/d/apportion-inference?var-workload=${__field.labels.workload}&${__url_time_range}"
_OF_RUN: Final = (
    "/d/apportion-training?var-workload=${__data.fields.workload}&var-run=${__data.fields.run}"
    "&${__url_time_range}"
)
"""A table has a column for each label."""

_IN_POD: Final = 'pod!=""'
_PODS: Final = "the `kubernetes` collector"
_BUDGETS: Final = "`budgets` in the configuration"
_SPENT: Final = total("budget", series("budget_spent_${currency}"))
_AMOUNT: Final = f"max by (budget) ({series('budget_amount_${currency}')})"
_PACE: Final = total("budget", f"clamp_min(deriv({series('budget_spent_${currency}')}[6h]), 0)")
_LEFT: Final = f"max by (budget) ({series('budget_period_end_timestamp_seconds')} - time())"
_PASSED: Final = ((0, "green"), (0.8, "yellow"), (1, "red"))

BOARD: Final = Board(
    "overview",
    "Overview",
    "What the devices cost now, who causes it, and what is idle.",
    (
        Row(
            "Now",
            (
                Panel(
                    "Cost an hour",
                    "What all devices cost at the pace of the last minutes.",
                    "short",
                    (Query(f"3600 * {total('', rate(COST))}"),),
                    "number",
                    4,
                ),
                Panel(
                    "30 days at this pace",
                    "The same for 30 days, whatever the budgets are.",
                    "short",
                    (Query(f"86400 * 30 * {total('', rate(COST))}"),),
                    "number",
                    4,
                ),
                Panel(
                    "Inside steps and requests",
                    "Share of the cost that is direct.",
                    "percentunit",
                    (Query(share("", rate(COST, 'category="direct"'), rate(COST))),),
                    "number",
                    4,
                    steps=((0, "red"), (0.5, "yellow"), (0.8, "green")),
                ),
                Panel(
                    "Idle",
                    "Share of the cost of devices that do nothing, held or not.",
                    "percentunit",
                    (
                        Query(
                            share(
                                "", rate(COST, 'category=~"unallocated|allocated_idle"'), rate(COST)
                            )
                        ),
                    ),
                    "number",
                    4,
                    steps=((0, "green"), (0.2, "yellow"), (0.5, "red")),
                ),
                Panel(
                    "Devices read",
                    "Devices that are being read, of those that are known.",
                    "short",
                    (
                        Query(total("", series("device_up")), "read"),
                        Query(f"count({series('device_up')})", "known"),
                    ),
                    "number",
                    4,
                ),
                Panel(
                    "Power",
                    "Power draw of all devices.",
                    "watt",
                    (Query(total("", series("device_power_watts"))),),
                    "number",
                    4,
                ),
            ),
        ),
        Row(
            "Who",
            (
                Panel(
                    "Cost by category",
                    "Cost an hour. All of it adds up to what the devices cost.",
                    "short",
                    (Query(f"3600 * {total('category', rate(COST))}", "{{category}}"),),
                    "stack",
                    12,
                ),
                Panel(
                    "Cost by workload",
                    "Cost an hour of the ten that cost most. Without a name: nobody's.",
                    "short",
                    (Query(f"topk(10, 3600 * {total('workload', rate(COST))})", "{{workload}}"),),
                    "stack",
                    12,
                    link=_PAGE,
                ),
                Panel(
                    "Top spenders",
                    "What each workload and tenant cost in the chosen time.",
                    "short",
                    (Query(f"topk(20, {total('workload, tenant', spent(COST))})"),),
                    "table",
                    12,
                ),
                Panel(
                    "Runs",
                    "What each training run cost in the chosen time.",
                    "short",
                    (Query(f"topk(20, {total('workload, run', spent(COST, _RUN))})"),),
                    "table",
                    12,
                    link=_OF_RUN,
                ),
            ),
        ),
        Row(
            "Pods",
            (
                Panel(
                    "Cost by pod",
                    "What devices cost in the chosen time that a pod holds alone, or its replicas.",
                    "short",
                    (Query(f"topk(20, {total('namespace, pod', spent(COST, _IN_POD))})"),),
                    "table",
                    12,
                    needs=_PODS,
                ),
                Panel(
                    "Devices by pod",
                    "The part of each device that pods were given.",
                    "percentunit",
                    (
                        Query(
                            total("namespace, pod, gpu", series("allocation_ratio", _IN_POD)),
                            "{{namespace}}/{{pod}} {{gpu}}",
                        ),
                    ),
                    "stack",
                    12,
                    needs=_PODS,
                ),
            ),
        ),
        Row(
            "Changed after it was settled",
            (
                Panel(
                    "Moved",
                    "Cost that was moved in the chosen time. It is still counted where it was.",
                    "short",
                    (
                        Query(
                            total("from, to, reason", spent("moved_cost_${currency}_total")),
                            "{{from}} to {{to}}: {{reason}}",
                        ),
                    ),
                    needs="a restart of a run, or records that came late",
                ),
                Panel(
                    "Adjusted",
                    "What prices and their rules changed in the chosen time; in no other picture.",
                    "short",
                    (
                        Query(
                            total("change, reason", spent("adjusted_cost_${currency}_total")),
                            "{{change}}: {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    "Prices applied",
                    "When prices were last applied to settled time.",
                    "dateTimeFromNow",
                    (
                        Query(
                            f"1000 * {series('prices_applied_timestamp_seconds')}", "{{instance}}"
                        ),
                    ),
                    "number",
                    needs="`apportion prices apply`",
                ),
            ),
        ),
        Row(
            "Budgets",
            (
                Panel(
                    "Spent",
                    "Share of each budget that is spent in its present period.",
                    "percentunit",
                    (Query(f"{_SPENT} / {_AMOUNT}", "{{budget}}"),),
                    span=8,
                    needs=_BUDGETS,
                    steps=_PASSED,
                ),
                Panel(
                    "At the end of the period",
                    "The share that will be spent by then, at the pace of the last six hours.",
                    "percentunit",
                    (Query(f"({_SPENT} + {_PACE} * {_LEFT}) / {_AMOUNT}", "{{budget}}"),),
                    span=8,
                    needs=_BUDGETS,
                    steps=_PASSED,
                ),
                Panel(
                    "Left",
                    "What is left of each budget until its period ends.",
                    "short",
                    (Query(f"{_AMOUNT} - {_SPENT}", "{{budget}}"),),
                    span=8,
                    needs=_BUDGETS,
                ),
            ),
        ),
        Row(
            "What to look into",
            (
                Panel(
                    "Alerts",
                    "Alerts of alerts/ that fire now.",
                    "none",
                    (Query('ALERTS{alertname=~"Apportion.*", alertstate="firing"}'),),
                    "table",
                    12,
                    needs="the alerting rules in Prometheus, and one that fires",
                ),
                Panel(
                    "Time without a price",
                    "Seconds a second of devices whose time is settled without an amount.",
                    "short",
                    (Query(total("device", rate("device_unpriced_seconds_total")), "{{device}}"),),
                    span=6,
                ),
                Panel(
                    "Settled until",
                    "How far each device's cost is known.",
                    "s",
                    (Query(series("settlement_lag_seconds"), "{{device}}"),),
                    span=6,
                ),
            ),
        ),
    ),
)
