"""The parts of an acceptance, one after the other, as one document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from apportion.agent.acceptance.agreement import Watched, energies, values, watch
from apportion.agent.acceptance.nvidia_smi import NvidiaSmi
from apportion.agent.acceptance.overhead import Work, WorkFailedError, overhead, run
from apportion.agent.config import AgentConfig
from apportion.agent.device_source import DeviceSource, collector_options
from apportion.agent.doctor.finding import Level
from apportion.agent.doctor.rings import examine_heartbeat
from apportion.collectors.observed import Observed
from apportion.collectors.registry import built_in
from apportion.core.clock import Clock
from apportion.core.units import NS_PER_SECOND

FORMAT: Final = "apportion-acceptance/1"
LONGEST_NS: Final = 15 * 60 * NS_PER_SECOND
_CLOCK_STEPS: Final = 50
_GRACE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long it may take, and with what. `python` runs the work; `command` is work instead."""

    duration_ns: int = 10 * 60 * NS_PER_SECOND
    nvidia_smi: str = "nvidia-smi"
    python: str = sys.executable
    command: Sequence[str] = ()


def accept(config: AgentConfig, clock: Clock, plan: Plan) -> dict[str, Any]:
    """Hold what we say of this node's GPUs against others, and measure what we cost.

    A part that cannot be done says why in `missing` and leaves the others alone. `disagreements`
    counts what did not agree.
    """
    heartbeat = examine_heartbeat(config.ring_dir, clock)
    smi = NvidiaSmi(plan.nvidia_smi)
    watched = watch(_source(config, clock), smi, clock, plan.duration_ns * 3 // 10)
    periods, no_periods = _periods(plan.duration_ns // 10)
    rows, energy = values(watched), energies(watched, periods)
    with tempfile.TemporaryDirectory(prefix="apportion-accept-") as name:
        folder = Path(name)
        document: dict[str, Any] = {
            "format": FORMAT,
            "SIMULATED": any(info.simulated for info in watched.infos.values()),
            "made": datetime.fromtimestamp(
                clock.realtime_ns() // NS_PER_SECOND, timezone.utc
            ).isoformat(),
            "apportion": _version(),
            "host": {"name": config.node, "kernel": os.uname().release, "cpus": os.cpu_count()},
            "devices": _devices(watched),
            "source_error": watched.error,
            "agent_was_running": heartbeat.level is Level.OK,
            "values": {
                "rounds": len(watched.answers),
                "missing": watched.missing,
                "unknown_to_nvidia_smi": smi.unknown,
                "rows": rows,
            },
            "energy": {"missing": no_periods, "rows": energy},
            "phase_clocks": _phase_clocks(plan, clock, folder),
            "overhead": _overhead(config, clock, plan, folder),
        }
    document["disagreements"] = sum(row["agrees"] is False for row in (*rows, *energy))
    return document


def _source(config: AgentConfig, clock: Clock) -> Observed:
    source = DeviceSource.of(config)
    options = collector_options(config, source.period_ns)
    return Observed(built_in().get(source.found.collector).factory(options, clock), clock)


def _devices(watched: Watched) -> list[dict[str, Any]]:
    return [
        {
            "device": info.device,
            "name": info.name,
            "index": info.index,
            "source": info.source,
            "driver_version": info.driver_version,
            "readings": len(watched.readings.get(info.device, ())),
        }
        for info in watched.infos.values()
    ]


def _periods(duration_ns: int) -> tuple[Mapping[str, Mapping[str, Any]], str | None]:
    """By UUID how each energy counter moves; or why nobody can tell."""
    seconds = duration_ns / NS_PER_SECOND
    command = [sys.executable, "-m", "apportion.collectors.nvml_energy_period", str(seconds)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {}, "NVML hangs"
    if done.returncode:
        return {}, done.stderr.strip().rpartition("\n")[2][:200] or "NVML ended the process"
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found, None


def _phase_clocks(plan: Plan, clock: Clock, folder: Path) -> dict[str, Any]:
    command = (plan.python, "-m", "apportion.client.acceptance", "clocks", str(_CLOCK_STEPS))
    try:
        found: dict[str, Any] = json.loads(run(command, clock, folder / "none")[1])
    except (WorkFailedError, ValueError) as error:
        return {"missing": str(error)}
    return found


def _overhead(config: AgentConfig, clock: Clock, plan: Plan, folder: Path) -> dict[str, Any]:
    work = Work(plan.python, plan.command)
    try:
        return overhead(config, clock, folder, work=work, duration_ns=plan.duration_ns // 2)
    except (WorkFailedError, ValueError) as error:
        return {"missing": str(error)}


def _version() -> str:
    try:
        return version("apportion")
    except PackageNotFoundError:  # the tree, not installed
        return "0+unknown"
