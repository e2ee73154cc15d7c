"""Why nothing arrives: what the client would do here, step by step, until something stops it."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from apportion.client import layout
from apportion.client.directory import Candidate, candidates
from apportion.client.identity import UNNAMED, Arguments, identity_json, names_of
from apportion.client.process import PROC, read_process
from apportion.client.ring import Facts, Ring
from apportion.client.rings_here import rings_here
from apportion.client.session import client_version, session
from apportion.client.training import step

SUFFIX: Final = ".selftest"
"""Not a ring's: no agent reads what is written here."""
HEARTBEAT_LIMIT_NS: Final = 30_000_000_000
_ROUNDS: Final = 20
_SPANS: Final = 200


class Finding(NamedTuple):
    """One thing that was looked at."""

    good: bool
    text: str


def diagnose(
    environ: Mapping[str, str],
    *,
    default: str = layout.DEFAULT_DIRECTORY,
    clock: Callable[[], int] = time.monotonic_ns,
    proc: Path = PROC,
) -> Iterator[Finding]:
    """Look at the directory, the agent, names, rings and a test ring, in this order.

    It stops at the first of them that makes the others impossible.
    """
    tried = candidates(None, environ, default)
    chosen = next((each for each in tried if each.problem is None), None)
    for each in tried:
        if each.problem is not None:
            # A default that is missing matters only where nothing else is there.
            yield Finding(
                chosen is not None, f"directory {each.path} ({each.source}) {each.problem}"
            )
    if chosen is None:
        yield Finding(
            good=False,
            text="no directory for a ring: start the agent first, or set "
            f"{layout.DIRECTORY_VARIABLE} to a directory on tmpfs that this process may write "
            "and the agent reads",
        )
        return
    yield Finding(good=True, text=f"directory {chosen.path} ({chosen.source}) is writable")
    if not os.path.isabs(chosen.path):  # noqa: PTH117 - as it was given
        yield Finding(
            good=False,
            text=f"{chosen.path} is another directory wherever a program is started: give it whole",
        )
    yield _file_system(chosen, proc)
    yield _agent(chosen, clock)
    yield _names(environ, proc)
    for ring in rings_here(chosen.path, clock, _rings_that_are(chosen, "unbound")):
        yield Finding(good=True, text=ring)
    unread = _rings_that_are(chosen, "unread")
    if unread:
        yield Finding(
            good=False,
            text=f"the agent cannot read {len(unread)} rings here, such as {min(unread)[:8]}: give "
            "it and this program one group, in a pod by `fsGroup`; its log says more",
        )
    yield from _test_ring(chosen, proc)


def _names(environ: Mapping[str, str], proc: Path) -> Finding:
    """Under which names spans from here would arrive, where the program says none itself."""
    names = names_of(Arguments(), environ, read_process(proc), os.uname().nodename, proc)
    workload = names.workload
    if workload == UNNAMED:
        workload += " (say client.init(workload=...), or set APPORTION_WORKLOAD)"
    counted = "" if names.restart_count is None else f", attempt {names.attempt}"
    rank = environ.get("RANK", environ.get("SLURM_PROCID"))
    ranked = "" if rank is None else f", rank {rank}"
    return Finding(
        good=True,
        text="a program that names nothing itself is here workload "
        f"{workload}, run {names.run}{counted}{ranked}",
    )


def _file_system(place: Candidate, proc: Path) -> Finding:
    """What the directory is on: the mount point that is the longest prefix of its real path."""
    real = os.path.realpath(place.path)
    best, kind = "", "an unknown file system"
    try:
        lines = (proc / "self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split()
        if len(fields) > 2 and len(fields[1]) >= len(best):
            point = fields[1].replace("\\040", " ")
            if real == point or real.startswith(point.rstrip("/") + "/"):
                best, kind = point, fields[2]
    if kind == "tmpfs":
        return Finding(good=True, text="it is on tmpfs")
    return Finding(
        good=True,
        text=f"it is on {kind}, not on tmpfs: spans arrive, but the disk may slow the workload",
    )


def _agent(place: Candidate, clock: Callable[[], int]) -> Finding:
    """Whether an agent says that it lives."""
    path = Path(place.path) / layout.AGENT_FILE
    try:
        said: Any = json.loads(path.read_bytes())
        beat_ns, version = int(said["heartbeat_monotonic_ns"]), str(said["version"])
    except FileNotFoundError:
        return Finding(
            good=False,
            text=f"no agent has written {path}: start one that reads {place.path} "
            "(`apportion agent`), or share its directory with this container",
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding(good=False, text=f"{path} cannot be read ({error}): which agent wrote it?")
    age_ns = clock() - beat_ns
    if age_ns < 0:
        return Finding(
            good=False,
            text=f"the agent's clock in {path} is ahead of this process's: another time namespace, "
            "or a file from before a reboot",
        )
    seconds = age_ns / 1e9
    if age_ns > HEARTBEAT_LIMIT_NS:
        return Finding(
            good=False, text=f"the agent was last alive {seconds:.0f} s ago ({path}): restart it"
        )
    return Finding(good=True, text=f"an agent {version} was alive {seconds:.1f} s ago")


def _rings_that_are(place: Candidate, name: str) -> Collection[str]:
    """Rings of which the agent says that they are `unbound`: it knows no device; or `unread`."""
    try:
        said: Any = json.loads((Path(place.path) / layout.AGENT_FILE).read_bytes())
        return frozenset(map(str, said[name]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _test_ring(place: Candidate, proc: Path) -> Iterator[Finding]:
    """Make a ring that no agent reads, write spans, look at one, and remove it."""
    identity = {"workload": "apportion-selftest", "client_version": client_version()}
    facts = Facts(
        ring_id=os.urandom(16),
        process=read_process(proc),
        init_ns=0,
        created_monotonic_ns=time.monotonic_ns(),
        created_realtime_ns=time.clock_gettime_ns(time.CLOCK_REALTIME),
        ready_ns=0,
        identity=identity_json(identity),
    )
    try:
        # As large as a real one: that is what may not fit.
        ring = Ring.create(place.path, facts, layout.DEFAULT_RECORD_CAPACITY, SUFFIX)
    except OSError as error:
        yield Finding(
            good=False,
            text=f"a ring of {layout.file_bytes(layout.DEFAULT_RECORD_CAPACITY) >> 20} MiB cannot "
            f"be made in {place.path}: {error.strerror or error}",
        )
        return
    try:
        session.adopt(ring)
        with step(1):
            pass
        stored = struct.unpack_from("@QQ", ring.record_bytes(1))
        yield Finding(
            good=stored == (1, 1), text=f"a test ring was made and a span written ({ring.path})"
        )
        yield Finding(good=True, text=f"a span costs {_span_ns():.0f} ns")
    finally:
        session.end()
        Path(ring.path).unlink()


def _span_ns() -> float:
    """The least of several rounds, in nanoseconds by the wall clock."""
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        begin_ns = time.perf_counter_ns()
        for number in range(_SPANS):
            with step(number):
                pass
        rounds.append((time.perf_counter_ns() - begin_ns) / _SPANS)
    return min(rounds)
