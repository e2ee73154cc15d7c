"""The doctor's look at the ring directory, the rings in it, and the agent's own file there."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from apportion.agent.doctor.finding import Finding, Level
from apportion.agent.ingest.pod_directories import VOLUME
from apportion.client import layout
from apportion.core.clock import Clock
from apportion.core.units import NS_PER_SECOND

_STALE_NS: Final = 15 * NS_PER_SECOND
"""A heartbeat that is older belongs to an agent that no longer runs."""
_ADD: Final = "give the workload's pod an emptyDir of that name: docs/kubernetes.md"
_MAX_AGENT_FILE_BYTES: Final = 64 << 10
_MOST: Final = 20
_NAME_THEM: Final = (
    "name them, `client.init(devices=[...])`, or of a service whose spans or log are read "
    "`service_devices`; docs/instrument.md, How a ring gets its devices"
)


def examine_ring_directory(path: Path, uid: int, *, has_pods: bool = False) -> list[Finding]:
    """Whether user `uid` can read rings in the directory, write to it, and which rings it has.

    Where pods have directories of their own (`has_pods`), this one may well have none.
    """
    check = "ring directory"
    try:
        state = path.stat()
        names = sorted(entry.name for entry in os.scandir(path))
    except FileNotFoundError:
        parent = next(each for each in path.parents if each.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return [Finding(check, Level.OK, f"{path} is not there yet; the agent will make it")]
        return [
            Finding(
                check,
                Level.FAIL,
                f"{path} is not there and {parent} is not writable",
                f"create it for uid {uid} (mode 3770), or set `ring_dir`",
            )
        ]
    except OSError as error:
        return [
            Finding(
                check,
                Level.FAIL,
                f"{path}: {error.strerror}",
                f"let uid {uid} read it, or set `ring_dir`",
            )
        ]
    mode = stat.S_IMODE(state.st_mode)
    found = f"{path}, owner {state.st_uid}:{state.st_gid}, mode {mode:04o}"
    findings: list[Finding] = []
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        findings.append(
            Finding(
                check,
                Level.WARN,
                f"{found}: anybody may replace anybody's ring",
                "chmod 3770 and share a group with the workloads; a pod's own volume is always "
                "so, and only its containers see it",
            )
        )
    elif not os.access(path, os.W_OK):
        findings.append(
            Finding(
                check,
                Level.WARN,
                f"{found}: not writable, so there is no heartbeat and no clean-up",
                f"let uid {uid} write it",
            )
        )
    elif not mode & (stat.S_IWGRP | stat.S_IWOTH):
        findings.append(
            Finding(
                check,
                Level.WARN,
                f"{found}: nobody but uid {state.st_uid} can make a ring",
                "chmod 3770 and share a group with the workloads",
            )
        )
    else:
        findings.append(Finding(check, Level.OK, found))
    paths = [path / name for name in names if name.endswith(layout.FILE_SUFFIX)]
    if has_pods and not paths:
        return [*findings, Finding("rings", Level.OK, "none outside of pods")]
    return [*findings, _rings(paths, uid)]


def examine_pods(path: Path | None) -> list[Finding]:
    """Whether the kubelet's directory of pods can be searched, and which pods share rings."""
    if path is None:
        return []
    try:
        pods = sorted(path.iterdir())
        volumes = [pod for pod in pods if (pod / VOLUME).is_dir()]
    except OSError as error:
        remedy = "mount the kubelet's directory there and let the agent search it, or unset it"
        text = f"pods_dir: {path}: {error.strerror}"
        return [Finding("pods", Level.FAIL, text, remedy)]
    found = f"{len(volumes)} of {len(pods)} pods have a volume apportion-rings"
    level, remedy = (Level.OK, "") if volumes else (Level.WARN, _ADD)
    findings = [Finding("pods", level, found, remedy)]
    for pod in volumes:
        with suppress(OSError):
            paths = sorted((pod / VOLUME).glob(f"*{layout.FILE_SUFFIX}"))
            rings = _rings(paths, os.geteuid())
            if paths and rings.level is not Level.OK:
                findings.append(replace(rings, found=f"pod {pod.name}: {rings.found}"))
    return findings


def _rings(paths: list[Path], uid: int) -> Finding:
    rings = [path for path in paths if path.name.endswith(layout.FILE_SUFFIX)]
    closed = [path for path in rings if not os.access(path, os.R_OK, follow_symlinks=False)]
    whole = sum(1 for path in rings if _is_ring(path))
    if closed:
        owner = closed[0].lstat()
        return Finding(
            "rings",
            Level.WARN,
            f"uid {uid} may not read {len(closed)} of {len(rings)} rings, such as "
            f"{closed[0].name[:8]} of {owner.st_uid}:{owner.st_gid}, mode "
            f"{stat.S_IMODE(owner.st_mode):04o}",
            "give agent and workloads one group, in a pod by `fsGroup`",
        )
    if not rings:
        return Finding(
            "rings",
            Level.WARN,
            "no process has made a ring",
            "run `python -m apportion.client` inside the workload: it says why",
        )
    if whole < len(rings):
        return Finding(
            "rings",
            Level.WARN,
            f"{len(rings) - whole} of {len(rings)} files are no readable rings",
            "look at the agent's log and apportion_rings_refused",
        )
    return Finding("rings", Level.OK, f"{whole} rings")


def _is_ring(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        magic = os.pread(descriptor, 8, layout.HEADER_OFFSETS["magic"])
        return magic == layout.MAGIC.to_bytes(8, "little")
    except OSError:
        return False
    finally:
        os.close(descriptor)


def examine_heartbeat(directory: Path, clock: Clock) -> Finding:
    """Whether an agent runs here, by the file that it renews."""
    check = "agent"
    path = directory / layout.AGENT_FILE
    start = "start it with `apportion agent`"
    try:
        beat_ns = int(_agent_file(path)["heartbeat_monotonic_ns"])
    except FileNotFoundError:
        return Finding(check, Level.WARN, f"no agent has written {path}", start)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return Finding(check, Level.WARN, f"{path} cannot be read: {error}", start)
    age_ns = clock.monotonic_ns() - beat_ns
    if not 0 <= age_ns <= _STALE_NS:
        return Finding(
            check, Level.WARN, f"the heartbeat in {path} is old: no agent runs here", start
        )
    return Finding(check, Level.OK, f"runs, its heartbeat is {age_ns / NS_PER_SECOND:.1f} s old")


def examine_unbound(directory: Path, pods: Path | None) -> list[Finding]:
    """The rings, also of pods, for which the agent that runs here knows no device."""
    folders = [directory, *([] if pods is None else sorted(pods.glob(f"*/{VOLUME}")))]
    names: list[str] = []
    for folder in folders:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            names += map(str, _agent_file(folder / layout.AGENT_FILE)["unbound"].values())
    found = [f"{name}: no device is known, its spans have no money" for name in names[:_MOST]]
    if len(names) > _MOST:
        found.append(f"and {len(names) - _MOST} more")
    return [Finding("rings", Level.WARN, text, _NAME_THEM) for text in found]


def _agent_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        document: dict[str, Any] = json.loads(file.read(_MAX_AGENT_FILE_BYTES))
    return document
