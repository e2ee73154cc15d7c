"""docs/runbook.md: for each alert what it means, what to check and what to do."""

from __future__ import annotations

from alerts.source import Alert, Record, Source


def page(source: Source) -> str:
    """The page, in Markdown."""
    lines = [
        "# Runbook",
        "",
        "Made from `alerts/source/` by `make alerts`; do not edit. How to load the rules and set",
        "their parameters is in [alerts](alerts.md); the families are in [metrics](metrics.md).",
        "",
        "| severity | it wants |",
        "| --- | --- |",
        "| critical | somebody now: work, hardware or money is being lost |",
        "| warning | somebody within a working day |",
        "| info | to be known when something else is looked into |",
        "",
    ]
    for group in source.groups:
        lines += [f"## {group.title}", ""]
        for alert in group.alerts:
            lines += _section(alert)
    lines += [
        "## Recorded series",
        "",
        "| series | what it is |",
        "| --- | --- |",
        *(_row(record) for record in source.records),
        "",
    ]
    return "\n".join(lines)


def _section(alert: Alert) -> list[str]:
    scope = "all agents together" if alert.fleet else "one agent"
    return [
        f"### {alert.alert}",
        "",
        f"*{alert.severity}*, after {alert.wait}, from {scope}. {alert.meaning}",
        "",
        "```promql",
        alert.expr,
        "```",
        "",
        "Check:",
        "",
        *(f"- {line}" for line in alert.check),
        "",
        "Do:",
        "",
        *(f"- {line}" for line in alert.do),
        "",
    ]


def _row(record: Record) -> str:
    return f"| `{record.record}` | {record.meaning} |"
