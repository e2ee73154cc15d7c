"""Who a process is: workload, run, attempt, rank. From the user, else from a few variables.

The command line is never read, nor any other variable: both may hold secrets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

from apportion.client.counting import count
from apportion.client.launchers import (
    attempt_of_launcher,
    restarts_of_launcher,
    run_of_launcher,
)
from apportion.client.layout import IDENTITY_BYTES
from apportion.client.process import PROC, Process, start_ticks

UNNAMED = "unnamed"
TEXT_LENGTH = 256
TAG_CAPACITY = 32
DEVICE_CAPACITY = 64
_NUMBER_LIMIT = 1 << 53
FLOPS_PER_PARAMETER = 6
"""Of training a token: twice in the forward pass, four times in the backward one."""
_HINTS = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


class Arguments(NamedTuple):
    """What the user told init(), as it came."""

    workload: object = None
    run: object = None
    attempt: object = None
    rank: object = None
    world_size: object = None
    devices: object = None
    tags: object = None
    resumed_from_step: object = None
    parameters: object = None
    flops_per_token: object = None


class Names(NamedTuple):
    """What a process and its forked children share."""

    workload: str
    run: str
    attempt: str
    restart_count: int | None = None
    """How often the run was restarted before, where a launcher or the user counts."""


def _text(value: object) -> str | None:
    """A string, or an int as one; cut to what the agent reads. Anything else is counted."""
    if type(value) is int:
        value = str(value)
    if isinstance(value, str):
        return value[:TEXT_LENGTH] or None
    if value is not None:
        count("argument_ignored")
    return None


def _number(value: object, text: str | None) -> int | None:
    """A plain int from the user, else from a variable's text; None where neither is one."""
    if type(value) is int and 0 <= value < _NUMBER_LIMIT:
        return value
    if value is not None:
        count("argument_ignored")
    if text is not None and text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    return None


def _whole(value: object) -> object:
    """People write 8e9 for a whole number, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _flops_per_token(arguments: Arguments, environ: Mapping[str, str]) -> int | None:
    """What training a token takes, as it was said, or by the model's parameters."""
    flops = _number(_whole(arguments.flops_per_token), environ.get("APPORTION_FLOPS_PER_TOKEN"))
    parameters = _number(_whole(arguments.parameters), environ.get("APPORTION_PARAMETERS"))
    if flops is not None or parameters is None:
        return flops
    return FLOPS_PER_PARAMETER * parameters


def _tags(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        if value is not None:
            count("argument_ignored")
        return {}
    found: dict[str, str] = {}
    pairs = cast("Mapping[object, object]", value)
    for name, text in pairs.items():
        if isinstance(name, str) and isinstance(text, str) and len(found) < TAG_CAPACITY:
            found[name[:TEXT_LENGTH]] = text[:TEXT_LENGTH]
        else:
            count("argument_ignored")
    return found


def _devices(value: object) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Iterable):
        if value is not None:
            count("argument_ignored")
        return []
    found: list[str] = []
    for device in cast("Iterable[object]", value):
        if isinstance(device, str) and len(found) < DEVICE_CAPACITY:
            found.append(device[:TEXT_LENGTH])
        else:
            count("argument_ignored")
    return found


def _default_run(
    workload: str, environ: Mapping[str, str], process: Process, host: str, proc: Path
) -> str:
    """Of this host and process; under a torchrun without an id, of it: its ranks are one run."""
    ticks = process.start_ticks
    if "TORCHELASTIC_RUN_ID" in environ:
        ticks = start_ticks(os.getppid(), proc) or ticks
    return f"{workload}-{host}-{process.boot_id[:4].hex()}-{ticks}"


def names_of(
    arguments: Arguments,
    environ: Mapping[str, str],
    process: Process,
    host: str,
    proc: Path = PROC,
) -> Names:
    """Workload, run and attempt: the user, else APPORTION_*, launchers, else a default."""
    workload = _text(arguments.workload) or _text(environ.get("APPORTION_WORKLOAD")) or UNNAMED
    run = (
        _text(arguments.run)
        or _text(environ.get("APPORTION_RUN"))
        or _text(run_of_launcher(environ, host))
        or _default_run(workload, environ, process, host, proc)
    )
    told = _text(arguments.attempt) or _text(environ.get("APPORTION_ATTEMPT"))
    attempt = told or attempt_of_launcher(environ) or os.urandom(8).hex()
    restarts = restarts_of_launcher(environ) if told is None else _number(None, told)
    return Names(workload, run[:TEXT_LENGTH], attempt, restarts)


def identity_of(
    names: Names,
    arguments: Arguments,
    environ: Mapping[str, str],
    version: str,
    manifest: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """The ring's identity: keys of `layout.IDENTITY_KEYS`, those that are known.

    Ranks are read when the ring is made, not at init(): who forks its ranks sets them after.
    """
    rank_text = environ.get("RANK", environ.get("SLURM_PROCID"))
    found: dict[str, object] = {
        "workload": names.workload,
        "run": names.run,
        "attempt": names.attempt,
        "restart_count": names.restart_count,
        "rank": _number(arguments.rank, rank_text),
        "local_rank": _number(None, environ.get("LOCAL_RANK")),
        "world_size": _number(arguments.world_size, environ.get("WORLD_SIZE")),
        "resumed_from_step": _number(arguments.resumed_from_step, None),
        "flops_per_token": _flops_per_token(arguments, environ) or None,
        "devices": _devices(arguments.devices) or None,
        "device_hints": {name: environ[name][:TEXT_LENGTH] for name in _HINTS if name in environ}
        or None,
        "tags": _tags(arguments.tags) or None,
        "client_version": version,
        "manifest": manifest,
    }
    return {key: value for key, value in found.items() if value is not None}


def identity_json(identity: Mapping[str, object]) -> bytes:
    """The identity as the header holds it, at most 3584 bytes: what is bulky goes first."""
    kept = dict(identity)
    for bulky in ("", "manifest", "tags", "device_hints", "devices"):
        if kept.pop(bulky, None) is not None:
            count("identity_shortened")
        text = json.dumps(kept, separators=(",", ":"), sort_keys=True).encode()
        if len(text) <= IDENTITY_BYTES:
            return text
    # Names of 256 characters that JSON writes as 12 bytes each.
    count("identity_shortened")
    short = {key: value[:64] if isinstance(value, str) else value for key, value in kept.items()}
    return json.dumps(short, separators=(",", ":"), sort_keys=True).encode()
