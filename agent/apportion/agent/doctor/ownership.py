"""The doctor's look at who meters which device on this host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apportion.agent.config import AgentConfig
from apportion.agent.doctor.finding import Finding, Level


def examine_ownership(config: AgentConfig, devices: list[Mapping[str, Any]]) -> list[Finding]:
    """The devices that `own` names, and the locks by which agents of one host agree."""
    check, path = "ownership", config.lock_dir
    known = {str(device["device"]) for device in devices}
    findings = [
        Finding(
            check,
            Level.WARN,
            f"`own` names {wanted}, which is not a device here",
            "correct `own`: the ids are those that `device` lists",
        )
        for wanted in config.own
        if devices and wanted not in known
    ]
    existing = path if path.exists() else next(each for each in path.parents if each.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        findings.append(Finding(check, Level.FAIL, f"{existing} is not writable", "set `lock_dir`"))
        return findings
    inodes = _lock_files(path)
    if not inodes:
        return [*findings, Finding(check, Level.OK, f"no agent has made a lock in {path}")]
    known_by = config.proc_root / "locks"
    holders = _lock_holders(inodes, known_by)
    if not holders:
        unknown = f"{known_by} shows nobody who holds one of the {len(inodes)} locks in {path}"
        findings.append(
            Finding(check, Level.OK, f"{unknown}; of another container it would not show it")
        )
    for name, pid in sorted(holders.items()):
        findings.append(Finding(check, Level.OK, f"process {pid} holds {path / name}"))
    return findings


def _lock_files(directory: Path) -> dict[int, str]:
    """The names of lock files by inode."""
    try:
        return {entry.inode(): entry.name for entry in os.scandir(directory)}
    except OSError:
        return {}


def _lock_holders(inodes: Mapping[int, str], known_by: Path) -> dict[str, int]:
    """Lock file names to the pid that holds each. Looks at procfs: taking a lock would disturb."""
    try:
        lines = known_by.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    holders: dict[str, int] = {}
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK":
            inode, pid = fields[5].rpartition(":")[2], fields[4]
            if inode.isdecimal() and int(inode) in inodes and pid.isdecimal():
                holders[inodes[int(inode)]] = int(pid)
    return holders
