"""Whether the agent itself works, keeps up and costs little."""

from __future__ import annotations

from typing import Final

from dashboards.panel import Board, Panel, Query, Row, rate, series, share, total

_SHARED: Final = "`shared_ledger`"
_AT: Final = "{{instance}}"

BOARD: Final = Board(
    "agent",
    "The agent itself",
    "Whether the agent works, keeps up, loses nothing and costs little.",
    (
        Row(
            "Works",
            (
                Panel(
                    "Books",
                    "What settlement could not place. Anything but 0 is a fault.",
                    "short",
                    (
                        Query(series("conservation_residual_units"), "money {{instance}}"),
                        Query(series("conservation_residual_joules"), "energy {{instance}}"),
                    ),
                    "number",
                    5,
                    steps=((0, "green"), (1, "red")),
                ),
                Panel(
                    "Ledger",
                    "1 while it can be written.",
                    "bool",
                    (Query(series("ledger_up"), _AT),),
                    "number",
                    5,
                    steps=((0, "red"), (1, "green")),
                ),
                Panel(
                    "Not as asked",
                    "Conditions that /readyz says in sentences.",
                    "short",
                    (Query(series("agent_degraded"), _AT),),
                    "number",
                    5,
                    steps=((0, "green"), (1, "yellow")),
                ),
                Panel(
                    "Version",
                    "Of each agent.",
                    "none",
                    (Query(total("version", series("build_info")), "{{version}}"),),
                    "number",
                    4,
                ),
                Panel(
                    "Up for",
                    "Time since the agent started.",
                    "s",
                    (Query(f"time() - {series('agent_start_timestamp_seconds')}", _AT),),
                    "number",
                    5,
                ),
                Panel(
                    "Collectors",
                    "1 where the last collection worked.",
                    "bool",
                    (Query(series("collector_success"), "{{instance}} {{collector}}"),),
                ),
                Panel(
                    "Scraped by the agent",
                    "1 where engines and exporters answered.",
                    "bool",
                    (Query(series("scrape_success"), "{{instance}} {{target}}"),),
                    needs="`engine_urls` or `dcgm_urls`",
                ),
                Panel(
                    "Rings",
                    "Attached, and those whose devices are not known.",
                    "short",
                    (
                        Query(series("rings_attached"), "attached {{instance}}"),
                        Query(series("rings_unbound"), "unbound {{instance}}"),
                    ),
                ),
            ),
        ),
        Row(
            "Keeps up",
            (
                Panel(
                    "Settlement",
                    "How late the last settlement began, and how far cost is known.",
                    "s",
                    (
                        Query(series("settlement_lateness_seconds"), "late {{instance}}"),
                        Query(
                            f"max by (instance) ({series('settlement_lag_seconds')})",
                            "behind {{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "Time of a settlement",
                    "Seconds each, and of them in the ledger's commits.",
                    "s",
                    (
                        Query(
                            share(
                                "instance",
                                rate("settlement_seconds_total"),
                                rate("settlement_ticks_total"),
                            ),
                            "settlement {{instance}}",
                        ),
                        Query(
                            share(
                                "instance",
                                rate("ledger_commit_seconds_total"),
                                rate("ledger_commits_total"),
                            ),
                            "commit {{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "Collection",
                    "How long the last one took.",
                    "s",
                    (Query(series("collector_duration_seconds"), "{{instance}} {{collector}}"),),
                ),
                Panel(
                    "NVML",
                    "A reading of all devices, and how late it began.",
                    "s",
                    (
                        Query(series("nvml_sweep_seconds"), "took {{instance}}"),
                        Query(series("nvml_sweep_lateness_seconds"), "late {{instance}}"),
                    ),
                ),
                Panel(
                    "Shared ledger",
                    "How old the oldest commit is that is not there.",
                    "s",
                    (Query(series("shared_ledger_lag_seconds"), _AT),),
                    needs=_SHARED,
                ),
                Panel(
                    "Outbox",
                    "What waits for the shared ledger.",
                    "bytes",
                    (Query(series("outbox_bytes"), _AT),),
                    needs=_SHARED,
                ),
            ),
        ),
        Row(
            "Loses nothing",
            (
                Panel(
                    "Records",
                    "Records a second from rings, by what became of them.",
                    "short",
                    (Query(total("outcome", rate("ring_records_total")), "{{outcome}}"),),
                ),
                Panel(
                    "Dropped",
                    "Items a second that found a queue full.",
                    "short",
                    (Query(total("reason", rate("drops_total")), "{{reason}}"),),
                    needs="a queue that was full",
                ),
                Panel(
                    "Folded labels",
                    "Distinct values that became `other`.",
                    "short",
                    (Query(total("label", series("label_values_folded")), "{{label}}"),),
                ),
                Panel(
                    "Series",
                    "A second: series that ended, by why, and amounts that went to `other` because "
                    "there were too many.",
                    "short",
                    (
                        Query(total("reason", rate("series_ended_total")), "{{reason}}"),
                        Query(total("", rate("series_refused_total")), "refused"),
                    ),
                ),
                Panel(
                    "Failed commits",
                    "Transactions a second.",
                    "short",
                    (Query(rate("ledger_failures_total"), _AT),),
                ),
                Panel(
                    "Unbound spans",
                    "Spans a second without a device: kept without money.",
                    "short",
                    (Query(rate("unbound_spans_total"), _AT),),
                ),
                Panel(
                    "NVML's reader",
                    "Times that the process was replaced.",
                    "short",
                    (Query(series("nvml_restarts_total"), _AT),),
                ),
            ),
        ),
        Row(
            "Costs little",
            (
                Panel(
                    "CPU",
                    "CPUs that the agent's processes use.",
                    "percentunit",
                    (Query(rate("agent_cpu_seconds_total"), "{{instance}} {{process}}"),),
                    span=12,
                ),
                Panel(
                    "Memory",
                    "Resident memory of the agent's processes.",
                    "bytes",
                    (Query(series("agent_resident_memory_bytes"), "{{instance}} {{process}}"),),
                    span=12,
                ),
            ),
        ),
    ),
)
