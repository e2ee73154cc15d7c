"""This process's one client: what init() said, and the ring, made at the first span.

After a fork the child has nothing of its parent's but the names; its first span makes a ring.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from apportion.client.capture import capture
from apportion.client.counters import NUMBER_LIMIT
from apportion.client.counting import count, forget_counts
from apportion.client.directory import candidates
from apportion.client.flight_recorder import NEVER, flight_recorder
from apportion.client.id_hashing import hashed_ids
from apportion.client.identity import Arguments, Names, identity_json, identity_of, names_of
from apportion.client.layout import DEFAULT_RECORD_CAPACITY, MEMBER
from apportion.client.manifest import manifest
from apportion.client.process import Process, read_process
from apportion.client.ring import CAPACITY_LIMIT, Facts, Ring
from apportion.client.surroundings import surroundings
from apportion.client.tracing import current_trace

RETRY_NS: Final = 10_000_000_000
"""Where no ring could be made, a span this much later tries again."""


def client_version() -> str:
    """Version of the installed distribution."""
    # Imports a fifth of the standard library: not before a ring is made.
    from importlib import metadata  # noqa: PLC0415

    try:
        return metadata.version("apportion")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0+unknown"


class Opener(Protocol):
    """Opens steps by itself, and takes back what was none."""

    def pause(self) -> None:
        """What begins now is no step."""

    def go_on(self) -> None:
        """That is over."""

    def forget(self) -> None:
        """In a forked child: what is open is the parent's."""

    def stop(self) -> None:
        """Somebody else does it from now on."""

    def end(self) -> None:
        """The process ends."""


class Session:
    """Makes the ring when it is first needed, and replaces or forgets it."""

    def __init__(self) -> None:
        self.ring: Ring | None = None
        """None until the first span, or where none can be made."""
        self.short: Ring | None = None
        """The ring, while a root span may take the short way.

        Not while a trace, or whether CUDA is initialised, has to be looked up at each.
        """
        self.due_ns = NEVER
        """From this time on none may: a dump or a capture is due."""
        self.problem: str | None = None
        """Why there is no ring, after a try."""
        self.read_trace: Callable[[], bytes] | None = None
        self.opener: Opener | None = None
        """What opens steps before it is known that they are some."""
        self._arguments = Arguments()
        self._directory: str | None = None
        self._capacity = DEFAULT_RECORD_CAPACITY
        self._names: Names | None = None
        self._init_ns = 0
        self._ready_ns = 0
        self._is_member = False
        self._parallel: Mapping[str, int] = {}
        self.resumed_step: int | None = None
        """What resumed() said last, or init()."""
        self.resumed_ns = 0
        """When resumed() said it; 0 where it did not."""
        self._declared: dict[str, int] = {}
        """What an integration knows of the identity, unless the user or a launcher says it."""
        self._rings: list[Ring] = []
        self._ended = False
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._making = False
        self._at_exit = False
        self.retry_ns = 0
        """Before this time nobody tries to make a ring again."""

    def configure(
        self, arguments: Arguments, directory: str | None, capacity: int, *, otel: bool
    ) -> None:
        """Take what init() was told. A ring that is there ends here."""
        with self._lock:
            self._arguments = arguments
            self._directory = directory
            if type(capacity) is int and 1 <= capacity <= CAPACITY_LIMIT:
                self._capacity = capacity
            else:
                self._capacity = DEFAULT_RECORD_CAPACITY
                count("argument_ignored")
            self._init_ns = time.monotonic_ns()
            told = arguments.resumed_from_step
            self.resumed_step = told if type(told) is int and 0 <= told < NUMBER_LIMIT else None
            self.resumed_ns = 0
            self._is_member = False
            self._names = self._resolve(read_process())
            self.read_trace = current_trace() if otel else None
            if otel and self.read_trace is None:
                count("opentelemetry_missing")
            self.retry_ns = 0
            self.problem = None
            self._end_ring()

    def _end_ring(self) -> None:
        """The next span makes another one. One with open spans stays for them until the end."""
        replaced = self.ring
        self._use(None)
        if replaced is not None and replaced.idle:
            self._rings.remove(replaced)
            replaced.close(time.monotonic_ns())

    def _resolve(self, process: Process) -> Names:
        return names_of(self._arguments, os.environ, process, os.uname().nodename)

    def _use(self, ring: Ring | None) -> None:
        self.ring = ring
        self.short = None

    @property
    def workload(self) -> str | None:
        """Its name; None before the first ring."""
        return None if self._names is None else self._names.workload

    def review(self, ring: Ring) -> None:
        """Allow the short way, or not, by what the long one or a phase has just seen."""
        if ring is self.ring:
            settled = ring.clock_bits or not surroundings.cuda
            self.short = ring if settled and self.read_trace is None else None
            self.due_ns = (
                min(flight_recorder.due_ns, capture.due_ns) if surroundings.torch else NEVER
            )

    def adopt(self, ring: Ring) -> None:
        """Write into a ring that somebody else made: the self-test's."""
        self._rings.append(ring)
        self._use(ring)

    def acquire(self) -> Ring | None:
        """The ring, made now if need be; None where none can be. Called when `ring` is None."""
        if time.monotonic_ns() < self.retry_ns:
            return None
        # Only a process's first spans wait here, while one of them makes the ring.
        with self._lock:
            if self.ring is None and not self._ended and not self._making:
                self._making = True  # a signal's handler may come back here
                try:
                    self._make()
                except OSError as error:
                    self.problem = f"{error.filename or 'ring'}: {error.strerror or error}"
                    count("ring_failed")
                finally:
                    self._making = False
                    if self.ring is None:
                        self.retry_ns = time.monotonic_ns() + RETRY_NS
            return self.ring

    def _make(self) -> None:
        tried = candidates(self._directory, os.environ)
        place = next((each for each in tried if each.problem is None), None)
        if place is None:
            self.problem = "; ".join(f"{each.path} {each.problem}" for each in tried)
            return
        process = read_process()
        if self._names is None:
            self._names = self._resolve(process)
        identity = identity_of(
            self._names, self._arguments, os.environ, client_version(), manifest()
        )
        identity = {**self._declared, **identity}
        if self._is_member:
            identity["kind"] = MEMBER
        if self._parallel:
            identity["parallel"] = self._parallel
        facts = Facts(
            ring_id=os.urandom(16),
            process=process,
            init_ns=self._init_ns,
            created_monotonic_ns=time.monotonic_ns(),
            created_realtime_ns=time.clock_gettime_ns(time.CLOCK_REALTIME),
            ready_ns=self._ready_ns,
            identity=identity_json(identity),
            resumed_step=(self.resumed_step or 0) if self.resumed_ns else 0,
            resumed_ns=self.resumed_ns,
        )
        ring = Ring.create(place.path, facts, self._capacity)
        self._rings.append(ring)
        if not self._at_exit:  # in a forked child again: multiprocessing clears what it inherits
            atexit.register(self.end)
            self._at_exit = True
        self.problem = None
        self._use(ring)

    def set_ready(self) -> None:
        """The server has finished starting; kept for the ring if there is none yet."""
        self._ready_ns = time.monotonic_ns()
        if self.ring is not None:
            self.ring.set_ready(self._ready_ns)

    def set_resumed(self, step: object) -> None:
        """The program goes on from a checkpoint of `step`; kept for the ring if there is none."""
        if type(step) is not int or not 0 <= step < NUMBER_LIMIT:
            count("argument_ignored")
            return
        self.resumed_step, self.resumed_ns = step, time.monotonic_ns()
        if self.ring is not None:
            self.ring.set_resumed(step, self.resumed_ns)

    def declare(self, facts: dict[str, int]) -> None:
        """Say what an integration knows of the identity, where neither user nor launcher does.

        A ring that is there ends here, if that is new: one process may train several models.
        """
        with self._lock:
            if facts != self._declared:
                self._declared = facts
                self._end_ring()

    def set_member(self) -> None:
        """This process has no spans of its own; its ring is made now, to say so."""
        with self._lock:
            if self.ring is not None:
                count("member_too_late")
                return
            self._is_member = True
            self.set_ready()
            self.retry_ns = 0
            self.acquire()

    def set_parallel(self, sizes: Mapping[str, int]) -> None:
        """How the server is spread over devices (`PARALLEL_KEYS`), for the ring to be made."""
        if self.ring is not None and sizes != self._parallel:
            count("parallel_too_late")
        self._parallel = sizes

    def end(self) -> None:
        """Close every ring cleanly and make no other: the process ends."""
        if self.opener is not None:
            self.opener.end()
        self._ended = True
        self._use(None)
        for ring in self._rings:
            ring.close(time.monotonic_ns())

    def forget(self) -> None:
        """In a forked child: what is mapped, locked and open is the parent's."""
        self._use(None)
        if self.opener is not None:
            self.opener.forget()
        for ring in self._rings:
            ring.forget()
        self._rings = []
        self._is_member = False
        self._parallel = {}
        forget_counts()
        self._renew()


session: Final = Session()
os.register_at_fork(after_in_child=session.forget)


def init(
    workload: str | None = None,
    *,
    run: str | None = None,
    attempt: str | int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    devices: list[str] | tuple[str, ...] | str | None = None,
    tags: dict[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    capacity: int = DEFAULT_RECORD_CAPACITY,
    resumed_from_step: int | None = None,
    parameters: float | None = None,
    flops_per_token: float | None = None,
    otel: bool = False,
    id_key_file: str | os.PathLike[str] | None = None,
) -> None:
    """Say who this process is. Call it before the first span and before forking; never raises.

    A later call ends the ring that is there and the next span makes a new one; spans that are
    open go on in the old one, which then ends with the process.

    Args:
        workload: The name of the trainer or server; else $APPORTION_WORKLOAD.
        run: One logical job; else $APPORTION_RUN, the launcher's (torchrun, JobSet, Slurm,
            Kubernetes, Ray), or one of this process.
        attempt: One execution of the run; else $APPORTION_ATTEMPT, the launchers' restart
            counts, or a random one.
        rank: Else $RANK or $SLURM_PROCID.
        world_size: Else $WORLD_SIZE.
        devices: UUIDs of the devices that this process works on, where it knows.
        tags: At most 32 pairs of strings.
        directory: Where the ring goes; else $APPORTION_RING_DIR, /run/apportion/rings or
            $XDG_RUNTIME_DIR/apportion/rings.
        capacity: Records that the ring holds before it overwrites the oldest (256 bytes each).
        resumed_from_step: The last step that the checkpoint held from which this attempt goes
            on; `resumed()` says it later.
        parameters: Of the model that is trained, those that a token passes; else
            $APPORTION_PARAMETERS. With tokens of steps it gives MFU, by 6 operations for each.
        flops_per_token: What training a token takes, where that is known better; else
            $APPORTION_FLOPS_PER_TOKEN.
        otel: Take the trace id of each root span from OpenTelemetry's current span.
        id_key_file: Store request ids and tenants as hashes by the key in this file; else
            $APPORTION_ID_KEY_FILE.
    """
    try:
        hashed_ids.configure(os.environ, None if id_key_file is None else os.fspath(id_key_file))
        whose = (workload, run, attempt, rank, world_size, devices, tags)
        arguments = Arguments(*whose, resumed_from_step, parameters, flops_per_token)
        path = None if directory is None else os.fspath(directory)
        session.configure(arguments, path, capacity, otel=otel)
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")


def ready() -> None:
    """Say that the server has finished starting: what it costs until now is startup."""
    try:
        session.set_ready()
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")


def member() -> None:
    """Say that this process computes for requests that another one reports, on another node.

    A worker of a tensor-parallel server has no requests: its head has them all. What its devices do
    from now on is direct cost of the workload, and a report over both nodes' ledgers divides it as
    the head's requests of the same workload and run share theirs. Call it once the worker has
    loaded, after init() with the head's `workload` and `run`, before any span.
    """
    try:
        session.set_member()
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")


def resumed(step: int) -> None:
    """Say that a checkpoint was loaded: what the run did after `step` is to be done again.

    Call it when the checkpoint is known, before the next step; also where a running program goes
    back. Without it the number of the first step says the same.

    Args:
        step: The last step that the checkpoint holds, a plain int.
    """
    try:
        session.set_resumed(step)
    except ValueError:
        count("ring_gone")
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")


def declare(**facts: int | None) -> None:
    """Say what an integration knows of the identity, where neither user nor launcher does.

    Args:
        facts: By keys of `layout.IDENTITY_KEYS`, plain ints; None is not known.
    """
    try:
        session.declare({key: fact for key, fact in facts.items() if fact is not None})
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")
