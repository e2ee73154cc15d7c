"""One burst as `profile cpu` and `profile continuous` take it: whom, how, and what is kept."""

from __future__ import annotations

import argparse
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apportion.agent.config import AgentConfig
from apportion.agent.config_layers import load_config
from apportion.agent.pipeline.node_time import boot_id
from apportion.agent.profile_store import (
    DEFAULT_BUDGET_BYTES,
    ProfileRecord,
    ProfileStore,
)
from apportion.agent.profiled_process import ProfiledProcess
from apportion.core.clock import Clock
from apportion.core.errors import ConfigError, ProfilerError
from apportion.cost.ledger.reader import LedgerReader
from apportion.profiles.py_spy import Burst, CpuProfile, PySpy
from apportion.profiles.speedscope import speedscope_json

_MIB: Final = 1 << 20
MOST_HZ: Final = 100
"""At 100 Hz py-spy uses some 6 % of a CPU; more measures the profiler."""


def add_burst(parser: argparse.ArgumentParser) -> None:
    """Whom to sample, and how."""
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--pid", type=_from_one, metavar="PID", help="this process")
    whom.add_argument("--workload", metavar="NAME", help="the live process of this workload")
    parser.add_argument("--rank", type=int, help="with --workload: of this rank (default: lowest)")
    normal = Burst()
    parser.add_argument(
        "--seconds",
        type=_from_one,
        default=normal.duration_s,
        metavar="N",
        help="how long (default: %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=_from_one,
        default=normal.rate_hz,
        metavar="HZ",
        help=f"samples a second, to {MOST_HZ} (default: %(default)s)",
    )
    parser.add_argument(
        "--idle", action="store_true", help="also threads that sleep or wait for something"
    )
    parser.add_argument(
        "--max-threads",
        type=_from_one,
        default=normal.max_threads,
        metavar="N",
        help="refuse a process that has more (default: %(default)s)",
    )
    parser.add_argument(
        "--cpu-budget",
        type=_share,
        default=normal.cpu_budget,
        metavar="SHARE",
        help="py-spy's own CPU time as a share of one CPU; beyond it, it is stopped, to the whole "
        "second (default: %(default)s)",
    )
    add_store(parser)


def add_store(parser: argparse.ArgumentParser) -> None:
    """Where profiles are kept."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the agent's configuration: state, ledger"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="where profiles are kept (default: `profiles` in the configuration's state_dir)",
    )
    parser.add_argument(
        "--keep-mib",
        type=_from_one,
        default=DEFAULT_BUDGET_BYTES // _MIB,
        metavar="MIB",
        help="the oldest go when all take more than this (default: %(default)s)",
    )


def store_of(options: argparse.Namespace) -> ProfileStore:
    """The store that is meant."""
    directory = options.dir
    if directory is None:
        directory = config_for(options).state_dir / "profiles"
    return ProfileStore(directory, options.keep_mib * _MIB)


@dataclass(frozen=True, slots=True)
class Taken:
    """A burst that worked. path: where the store has it."""

    pid: int
    profile: CpuProfile
    path: Path


class CpuBursts:
    """Takes bursts of whatever process the options mean at the time."""

    def __init__(self, options: argparse.Namespace, py_spy: PySpy, clock: Clock) -> None:
        if options.rate > MOST_HZ:
            raise ConfigError(f"--rate {options.rate}: {MOST_HZ} is the most")
        self._options = options
        self._py_spy = py_spy
        self._clock = clock
        self._store = store_of(options)
        self.burst = Burst(
            options.seconds,
            options.rate,
            options.max_threads,
            options.cpu_budget,
            idle=options.idle,
        )

    def take(self) -> Taken:
        """One burst: kept and written down, or written down with its failure.

        Raises:
            ProfilerError: it failed.
            ConfigError: the store cannot be written.
        """
        options, now_ns = self._options, self._clock.realtime_ns()
        pid: int | None = options.pid
        try:
            if pid is None:
                pid = self._pid()
            found = self._py_spy.record(pid, self.burst)
        except ProfilerError as error:
            self._note(self._record(now_ns, pid, None, error.reason))
            raise
        what = options.workload or f"pid{pid}"
        name = self._store.name(now_ns, "cpu", what)
        record = self._record(now_ns, pid, found, None, name)
        title = f"CPU of {what}: {found.samples} samples at {self.burst.rate_hz} Hz"
        try:
            path = self._store.add(record, speedscope_json(found.stacks.merged(), title))
        except OSError as error:
            raise unwritable(self._store, error) from error
        return Taken(pid, found, path)

    def _pid(self) -> int:
        config = config_for(self._options)
        boot = boot_id(config.proc_root)
        with LedgerReader.of(config.ledger_location, clock=self._clock) as ledger:
            chosen = self._options
            return ProfiledProcess.of(ledger, chosen.workload, boot, chosen.rank).pid

    def _record(
        self,
        now_ns: int,
        pid: int | None,
        found: CpuProfile | None,
        error: str | None,
        file: str | None = None,
    ) -> ProfileRecord:
        return ProfileRecord(
            taken_unix_ns=now_ns,
            kind="cpu",
            who=who(),
            pid=pid,
            workload=self._options.workload,
            duration_s=None if found is None else float(self.burst.duration_s),
            samples=None if found is None else found.samples,
            cpu_s=None if found is None else round(found.cpu_s, 3),
            file=file,
            error=error,
        )

    def _note(self, record: ProfileRecord) -> None:
        try:
            self._store.note(record)
        except OSError as error:
            raise unwritable(self._store, error) from error


def config_for(options: argparse.Namespace) -> AgentConfig:
    """The configuration that is meant."""
    return load_config(
        options.config, os.environ, {}, uid=os.geteuid(), host_name=os.uname().nodename
    ).config


def unwritable(store: ProfileStore, error: OSError) -> ConfigError:
    """Why a profile could not be kept."""
    return ConfigError(
        f"cannot be written ({error.strerror}): profiles are kept there; say --dir",
        path=store.directory,
    )


def who() -> str:
    """The user that asked; the one behind sudo where there is one."""
    uid = os.getuid()
    behind = os.environ.get("SUDO_USER")
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return f"{name} for {behind}" if uid == 0 and behind else name


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share above 0 up to 1")
    return share
