"""Our values beside nvidia-smi's, and the energy counter beside the power."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Final

from apportion.agent.acceptance.nvidia_smi import COMPARED, Answer, Compared, NvidiaSmi
from apportion.collectors.observed import Observed
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_SECOND

LEAST_ROUNDS: Final = 3
ENERGY_PART: Final = 0.05
"""By how much the counter and the integral of the power may differ."""
LEAST_ENERGY_NS: Final = 3 * NS_PER_SECOND
"""Of a shorter time the counter's own period is a part that counts."""
GRACE_NS: Final = 60 * NS_PER_SECOND
_LOOK_NS: Final = NS_PER_SECOND // 20


@dataclass(slots=True)
class Watched:
    """What both said for a while. `missing` says why nvidia-smi said nothing, or no more."""

    infos: dict[str, DeviceInfo] = field(default_factory=dict[str, DeviceInfo])
    readings: dict[str, list[Reading]] = field(default_factory=dict[str, list[Reading]])
    answers: list[Answer] = field(default_factory=list[Answer])
    missing: str | None = None
    error: str | None = None
    """Why there are no readings of ours."""


def watch(observed: Observed, smi: NvidiaSmi, clock: Clock, duration_ns: int) -> Watched:
    """Read our source for `duration_ns` and ask nvidia-smi, `LEAST_ROUNDS` times at least.

    The time begins with the first reading. It takes up to `GRACE_NS` longer where either is slow.
    """
    watched, never = Watched(), threading.Event()
    observed.start()
    try:
        end_ns = clock.monotonic_ns() + duration_ns
        due_ns, latest_ns = 0, end_ns + GRACE_NS
        while True:
            was_silent = not watched.readings
            _take(watched, observed)
            now_ns = clock.monotonic_ns()
            if was_silent and watched.readings:
                end_ns = min(latest_ns, now_ns + duration_ns)
            if watched.readings and watched.missing is None and now_ns >= due_ns:
                due_ns = now_ns + duration_ns // (LEAST_ROUNDS + 1)
                _ask(watched, smi)
            is_done = watched.missing is not None or len(watched.answers) >= LEAST_ROUNDS
            if now_ns >= (end_ns if is_done else latest_ns):
                break
            clock.wait(never, _LOOK_NS)
        watched.error = observed.status.error
    finally:
        observed.close()
    return watched


def _ask(watched: Watched, smi: NvidiaSmi) -> None:
    try:
        watched.answers.append(smi.ask())
    except CollectorError as error:
        watched.missing = str(error)


def _take(watched: Watched, observed: Observed) -> None:
    batch = observed.collect()
    for info in batch.devices:
        watched.infos[info.device] = info
    for reading in batch.readings:
        watched.readings.setdefault(reading.device, []).append(reading)


def values(watched: Watched) -> list[dict[str, Any]]:
    """A row for each GPU and value: both medians, and whether they agree; None: one is missing."""
    return [
        _row(watched, device, compared)
        for device in watched.infos
        for compared in COMPARED
        if any(device in answer for answer in watched.answers)
    ]


def _row(watched: Watched, device: str, compared: Compared) -> dict[str, Any]:
    said = [
        answer[device][compared.field]
        for answer in watched.answers
        if compared.field in answer.get(device, {})
    ]
    sources = (watched.infos[device], *watched.readings.get(device, []))
    known = [value for each in sources if (value := getattr(each, compared.ours, None)) is not None]
    row = {"device": device, "field": compared.field, "unit": compared.unit}
    if compared.fact:
        return {**row, **_facts(known, said)}
    return {
        **row,
        **_numbers(known, [n for text in said if (n := _number(text)) is not None], compared),
    }


def _facts(known: list[str], said: list[str]) -> dict[str, Any]:
    ours, theirs = (texts[-1] if texts else None for texts in (known, said))
    return {
        "ours": ours,
        "nvidia_smi": theirs,
        "agrees": ours == theirs if known and said else None,
    }


def _numbers(known: list[float], said: list[float], compared: Compared) -> dict[str, Any]:
    ours = float(median(known)) if known else None
    theirs = float(median(said)) * compared.scale if said else None
    if ours is None or theirs is None:
        return {"ours": ours, "nvidia_smi": theirs, "agrees": None}
    allowed = max(compared.least, compared.part * abs(theirs))
    agrees = abs(ours - theirs) <= allowed
    return {"ours": ours, "nvidia_smi": theirs, "allowed": allowed, "agrees": agrees}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def energies(watched: Watched, periods: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each device with a counter: its period, and its energy beside its power's."""
    return [
        {**_energy(readings), "device": device, **periods.get(device, {})}
        for device, readings in watched.readings.items()
        if readings and readings[-1].energy_source == "energy_counter"
    ]


def _energy(readings: Sequence[Reading]) -> dict[str, Any]:
    known = [
        (each.time_ns, each.energy_mj, each.power_mw)
        for each in readings
        if each.energy_mj is not None and each.power_mw is not None
    ]
    if len(known) < 2 or known[-1][0] - known[0][0] < LEAST_ENERGY_NS:
        return {"energy_mj": None, "power_integral_mj": None, "agrees": None}
    counted_mj = known[-1][1] - known[0][1]
    integral_mj = sum(
        (later[0] - earlier[0]) * (earlier[2] + later[2]) / 2 / NS_PER_SECOND
        for earlier, later in pairwise(known)
    )
    agrees = abs(counted_mj - integral_mj) <= ENERGY_PART * integral_mj
    return {"energy_mj": counted_mj, "power_integral_mj": round(integral_mj), "agrees": agrees}
