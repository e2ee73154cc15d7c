"""An acceptance as a page that a person reads and commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from apportion.agent.acceptance.overhead import PAIRS

_MARK = {True: "yes", False: "**no**", None: "-"}


def page(document: Mapping[str, Any]) -> str:
    """The document in Markdown."""
    host, devices = document["host"], document["devices"]
    summary = (
        f"**{_what(document)}.** {document['made']}, apportion {document['apportion']}, "
        f"{len(devices)} devices, {host['cpus']} CPUs, kernel {host['kernel']}. "
        f"Values that did not agree: {document['disagreements']}."
    )
    lines = [f"# Acceptance on {host['name']}", "", summary]
    if document["agent_was_running"]:
        lines += ["", "An agent was running all the time: what is called without one is not."]
    if document["source_error"]:
        lines += ["", f"Reading ended with: {document['source_error']}."]
    lines += ["", *_table(("device", "name", "driver", "readings"), _devices(devices))]
    lines += ["", "## Beside nvidia-smi", "", *_values(document["values"])]
    lines += ["", "## Energy counters", "", *_energy(document["energy"])]
    lines += ["", "## Clocks of phases", "", *_clocks(document["phase_clocks"])]
    lines += ["", "## What the agent costs", "", *_overhead(document["overhead"])]
    return "\n".join([*lines, ""])


def _what(document: Mapping[str, Any]) -> str:
    if document["SIMULATED"]:
        return "SIMULATED GPUs: nothing here is of real hardware"
    if all(device["source"] == "cpu" for device in document["devices"]):
        return "No GPU was read: nothing is accepted"
    return "Real GPUs"


def _devices(devices: Iterable[Mapping[str, Any]]) -> Iterable[tuple[object, ...]]:
    for each in devices:
        yield each["device"], each["name"], each["driver_version"] or "-", each["readings"]


def _values(values: Mapping[str, Any]) -> list[str]:
    if values["missing"]:
        return [f"Not done: {values['missing']}."]
    rows = (
        (
            row["device"],
            row["field"],
            _shown(row["ours"], row["unit"]),
            _shown(row["nvidia_smi"], row["unit"]),
            _shown(row.get("allowed"), row["unit"]),
            _MARK[row["agrees"]],
        )
        for row in values["rows"]
    )
    columns = ("device", "field", "ours", "nvidia-smi", "may differ by", "agrees")
    lines = [f"Medians of {values['rounds']} looks.", "", *_table(columns, rows)]
    if values["unknown_to_nvidia_smi"]:
        lines += ["", f"Unknown to it: {', '.join(values['unknown_to_nvidia_smi'])}."]
    return lines


def _energy(energy: Mapping[str, Any]) -> list[str]:
    if energy["missing"]:
        return [f"Not done: {energy['missing']}."]
    rows = (
        (
            row["device"],
            _scaled(row.get("period_ns"), 1e6, "ms"),
            _scaled(row.get("poll_ns"), 1e6, "ms"),
            _scaled(row.get("step_mj"), 1e3, "J"),
            _scaled(row["energy_mj"], 1e3, "J"),
            _scaled(row["power_integral_mj"], 1e3, "J"),
            _MARK[row["agrees"]],
        )
        for row in energy["rows"]
    )
    columns = ("device", "period", "seen to", "step", "counted", "power over time", "agrees")
    return list(_table(columns, rows))


def _clocks(clocks: Mapping[str, Any]) -> list[str]:
    if "missing" in clocks:
        return [f"Not done: {clocks['missing']}."]
    rows = (
        (
            phase,
            _scaled(clocks["device_ns"][phase], 1e6 * clocks["steps"], "ms"),
            _scaled(host_ns, 1e6 * clocks["steps"], "ms"),
        )
        for phase, host_ns in clocks["host_ns"].items()
    )
    step = _scaled(clocks["steps_ns"], 1e6 * clocks["steps"], "ms")
    said = f"Of {clocks['steps']} steps, a mean of {step} each. The host's clock sees launches."
    return [said, "", *_table(("phase", "on the device", "by the host's clock"), rows)]


def _overhead(cost: Mapping[str, Any]) -> list[str]:
    if "missing" in cost:
        return [f"Not done: {cost['missing']}."]
    rows = [
        ("without the agent", _scaled(median(cost["without_s"]), 1, "s"), _all(cost["without_s"])),
        ("with the agent", _scaled(median(cost["with_s"]), 1, "s"), _all(cost["with_s"])),
    ]
    said = (
        f"The same work in turns ({cost['work']}): {cost['slower_percent']:+.2f} % with the agent, "
        f"which took {cost['agent_cpu_percent']:.2f} % of a core and "
        f"{cost['agent_resident_bytes'] / 2**20:.0f} MiB."
    )
    if len(cost["with_s"]) < PAIRS:
        said += " Of one run of each: that says little; take more time (`--accept-for`)."
    return [said, "", *_table(("", "median", "each"), rows)]


def _all(seconds: Iterable[float]) -> str:
    return ", ".join(f"{each:.3f}" for each in seconds)


def _scaled(value: float | None, scale: float, unit: str) -> str:
    return "-" if value is None else f"{value / scale:,.3f} {unit}"


def _shown(value: object, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.6g} {unit}".strip() if isinstance(value, (int, float)) else str(value)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterable[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"
