"""NVML behind a process boundary: starts the child, listens to it, replaces it.

A thread in a stuck driver call can be neither ended nor outlived, so NVML never runs in the
agent. The child (`nvml_child`) that misses its deadline, crashes or sends nonsense is abandoned
and replaced with backoff, without the GPU that it was reading then; one that cannot even be killed
is left behind and named. Where a GPU does not answer, another child tries all of them from time to
time, beside the one that goes on with the others, and takes over once it reads more.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from apportion.collectors.child_process import ChildProcess
from apportion.collectors.collector import Batch, DeviceFailure, FailureKind
from apportion.collectors.nvml_child import FRESH
from apportion.collectors.nvml_conversation import ChildGivenUp, Deadlines, NvmlConversation
from apportion.collectors.nvml_messages import (
    DeviceAnswer,
    End,
    Happened,
    Hello,
    Message,
    NvmlState,
)
from apportion.collectors.nvml_news import NvmlNews
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.core.clock import Clock
from apportion.core.errors import NoData, SourceLost
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND

LONGEST_BACKOFF: Final = 30
"""Periods between two children, at most; one at first."""
FIRST_TRIAL, LONGEST_TRIAL = 5, 300
"""Periods between two looks at GPUs that do not answer, by a child beside the one that reads."""
_LISTENING_SWEEPS: Final = 2
"""A child listens to events from its first sweep on; before that the other one is needed."""
_PATIENT_SWEEPS: Final = 3
_MOST_UNDEAD: Final = 3
_END_GRACE_NS: Final = NS_PER_SECOND
_CRASH_GRACE_NS: Final = NS_PER_SECOND // 20
_ABSENT: Final = frozenset({NvmlState.NO_LIBRARY, NvmlState.NO_DRIVER})
_KINDS: Final = {
    NvmlState.STALLED: FailureKind.HANGING,
    NvmlState.NO_LIBRARY: FailureKind.NO_DRIVER,
    NvmlState.NO_DRIVER: FailureKind.NO_DRIVER,
    NvmlState.MISMATCH: FailureKind.MISMATCH,
}
"""Why no device is read, in a word, by the state; else by what was last said of all of them."""
_LOG: Final = logging.getLogger(__name__)


class NvmlProcess:
    """The `nvml` collector. One thread calls it; `state` and `reason` may be read from any.

    That thread must live as long as the collector: the kernel kills a child whose starting
    thread ends, so that no orphan keeps a GPU from being reset.

    `command` replaces the child, for tests of what a broken one does.
    """

    def __init__(
        self, options: CollectorOptions, clock: Clock, *, command: Sequence[str] | None = None
    ) -> None:
        self._options = options
        self._clock = clock
        self._command = None if command is None else tuple(command)
        self._deadlines = Deadlines(
            options.connect_deadline_ns, options.period_ns + options.deadline_ns
        )
        self._state = NvmlState.CONNECTING
        self._reason = "NVML has not been asked yet"
        self._current: NvmlConversation | None = None
        self._trial: NvmlConversation | None = None
        self._trial_said: list[Message] = []
        self._told_ns = 0
        self._undead: list[ChildProcess] = []
        self._left_out: dict[int, DeviceFailure] = {}
        self._count: int | None = None
        self._news = NvmlNews(clock)
        self._backoff = 1
        self._restart_ns = 0
        self._trial_pause = FIRST_TRIAL
        self._trial_ns: int | None = None
        self._started = 0
        self._ok_since_ns: int | None = None
        self._closed = False

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "nvml"

    @property
    def state(self) -> NvmlState:
        """Where the source stands; a failing state lasts until readings come again."""
        return self._state

    @property
    def reason(self) -> str:
        """A sentence about `state`; empty while it is `ok`."""
        return self._reason

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is no child."""
        return None if self._current is None else self._current.child.pid

    @property
    def restarts(self) -> int:
        """How many children were started after the first."""
        return max(0, self._started - 1)

    @property
    def undead_pids(self) -> tuple[int, ...]:
        """Children that were killed and have not died, stuck in the driver."""
        return tuple(child.pid for child in self._undead if child.ending() is None)

    @property
    def in_sweep(self) -> bool:
        """Some devices of the current sweep have not answered yet."""
        return self._current is not None and self._current.in_sweep

    @property
    def lasting_samples(self) -> tuple[Sample, ...]:
        """What must be shown although NVML fails: events, XIDs above all, and restarts."""
        return (*self._news.event_samples, Sample("nvml_restarts_total", self.restarts))

    def set_pids(self, pids: Sequence[int]) -> None:
        """Processes that are waited for: until NVML lists them it is asked at every sweep.

        It may be called from any thread.
        """
        self._news.wait_for(frozenset(pids))

    def start(self) -> None:
        """Start the child; its first readings come by themselves."""
        self._closed = False
        self._current = self._spawn(self._clock.monotonic_ns(), skip=True)

    def collect(self) -> Batch:
        """The readings since the last call, several per device if that was long ago.

        It does not wait for readings; only for a child that is ending, for a second at most.

        Raises:
            NoData: there is no NVML library or no driver here.
            SourceLost: the child stalled, crashed or reported that NVML failed.
        """
        now_ns = self._clock.monotonic_ns()
        self._undead = [child for child in self._undead if child.ending() is None]
        if self._current is None and not self._closed and now_ns >= self._restart_ns:
            self._current = self._spawn(now_ns, skip=True)
        if self._current is not None:
            self._listen(self._current, now_ns)
        self._try_all(now_ns)
        batch = self._news.batch()
        if not batch.readings and self._state not in {NvmlState.OK, NvmlState.CONNECTING}:
            failure = NoData if self._state in _ABSENT else SourceLost
            kind = _KINDS.get(self._state) or self._news.failing_kind
            raise failure(self._reason, kind=kind)
        return batch

    def close(self) -> None:
        """End the child: it shuts NVML down and lets go of the devices. Waits up to a second."""
        self._closed = True
        for conversation in (self._current, self._trial):
            self._end(conversation)
        self._current = self._trial = None
        self._news.fell_silent()
        self._undead = [each for each in self._undead if each.ending(_CRASH_GRACE_NS) is None]

    # -- the child that reads --------------------------------------------------------------------
    def _spawn(self, now_ns: int, *, skip: bool) -> NvmlConversation | None:
        """Start a child: with `skip` without the GPUs that are left out."""
        if len(self._undead) >= _MOST_UNDEAD:
            # Each more would only hang in the same driver call.
            self._restart_ns = now_ns + LONGEST_BACKOFF * self._options.period_ns
            return None
        self._started += skip
        environment = os.environ if self._options.environment is None else self._options.environment
        command = self._command or self._own_command(self._left_out if skip else ())
        try:
            # A file called apportion.py in the working directory must not be imported.
            return NvmlConversation(
                command, {**environment, "PYTHONSAFEPATH": "1"}, self._deadlines, now_ns
            )
        except OSError as error:
            if skip:
                reason = f"the NVML child could not be started: {error}"
                self._give_up(ChildGivenUp(NvmlState.FAILED, reason), now_ns)
            return None

    def _own_command(self, left_out: Sequence[int] | dict[int, DeviceFailure]) -> tuple[str, ...]:
        skip = tuple(f"--skip={index}" for index in sorted(left_out))
        return (
            sys.executable,
            "-m",
            "apportion.collectors.nvml_child",
            f"--period-ns={self._options.period_ns}",
            f"--deadline-ns={self._options.deadline_ns}",
            f"--parent={os.getpid()}",
            *skip,
            *((f"--count={self._count}",) if skip and self._count is not None else ()),
        )

    def _listen(self, current: NvmlConversation, now_ns: int) -> None:
        """Take what the child said; give it up if it is gone, late or talks nonsense."""
        for message in current.listen(now_ns):
            self._take(message, current, now_ns)
        if current.lost is not None:
            self._give_up(current.lost, now_ns)
        elif self._news.is_waiting(now_ns):
            current.say(FRESH)

    def _take(self, message: Message, current: NvmlConversation, now_ns: int) -> None:
        """One message of the child that reads."""
        match message:
            case Hello(indexes=()):
                # Those that answered have vanished from the driver; only sick ones remain.
                reasons = "; ".join(each.reason for each in self._left_out.values())
                self._left_out.clear()
                current.lost = ChildGivenUp(NvmlState.FAILED, f"every GPU is left out: {reasons}")
            case Hello():
                if message.count != self._count:
                    # Indexes mean other GPUs now, and the child has left none out.
                    self._left_out.clear()
                    self._news.forget_places()
                self._count = message.count
            case DeviceAnswer():
                self._news.add(message)
            case Happened(time_ns=time_ns):
                # Two children listen while one tries: each event is told by one of them.
                if time_ns > self._told_ns:
                    self._news.happened(message)
            case End():
                self._state, self._reason = NvmlState.OK, ""
                self._ok_since_ns = self._ok_since_ns or now_ns
                self._news.swept(message, current.readable, tuple(self._left_out.values()))
            case _:
                pass

    def _give_up(self, lost: ChildGivenUp, now_ns: int) -> None:
        """Abandon the child and plan the next one: at once if it can do without a sick GPU."""
        indexes = () if self._current is None else self._current.indexes
        self._abandon(self._current)
        self._current = None
        self._news.fell_silent()
        healthy_since_ns = now_ns if self._ok_since_ns is None else self._ok_since_ns
        self._ok_since_ns = None
        if lost.blamed is not None and len(indexes) > 1:
            device = self._news.gpu_at(lost.blamed)
            self._left_out[lost.blamed] = DeviceFailure(
                device, lost.blamed, lost.reason, FailureKind.LEFT_OUT
            )
            self._restart_ns = now_ns
        else:
            if now_ns - healthy_since_ns >= LONGEST_BACKOFF * self._options.period_ns:
                self._backoff = 1
            self._restart_ns = now_ns + self._backoff * self._options.period_ns
            self._backoff = min(2 * self._backoff, LONGEST_BACKOFF)
        if lost.reason != self._reason:
            level = logging.DEBUG if lost.state in _ABSENT else logging.WARNING
            _LOG.log(level, "NVML: %s", lost.reason)
        self._state, self._reason = lost.state, lost.reason

    # -- the child that tries --------------------------------------------------------------------
    def _try_all(self, now_ns: int) -> None:
        """While a known GPU does not answer, let another child try them all from time to time."""
        if self._trial is not None:
            self._hear_trial(self._trial, now_ns)
            return
        if not self._news.missing or self._current is None or self._state is not NvmlState.OK:
            if not self._news.missing:
                self._trial_ns, self._trial_pause = None, FIRST_TRIAL
            return
        if self._trial_ns is None:
            self._trial_ns = now_ns + self._trial_pause * self._options.period_ns
        if now_ns >= self._trial_ns:
            self._trial_said = []
            self._trial = self._spawn(now_ns, skip=False)
            self._trial_pause = min(2 * self._trial_pause, LONGEST_TRIAL)
            self._trial_ns = now_ns + self._trial_pause * self._options.period_ns

    def _hear_trial(self, trial: NvmlConversation, now_ns: int) -> None:
        """Let the trying child take over once it reads more than the other; or end it."""
        self._trial_said += trial.listen(now_ns)
        if trial.lost is not None:
            _LOG.debug("NVML: a look at GPUs that do not answer failed: %s", trial.lost.reason)
            self._abandon(trial)
            self._trial = None
            return
        end, current = trial.last_end, self._current
        if end is None or trial.in_sweep or end.sweep < _LISTENING_SWEEPS:
            return
        if not trial.is_settled and end.sweep < _PATIENT_SWEEPS:
            return
        self._trial = None
        if current is not None and not trial.readable > current.readable:
            self._end(trial)
            return
        # The old one goes first: what it has still to say belongs before what the new one said.
        if current is not None and current.last_end is not None:
            self._told_ns = current.last_end.told_ns
        self._end(current)
        self._current = trial
        self._started += 1
        self._left_out.clear()
        for message in self._trial_said:
            self._take(message, trial, now_ns)
        _LOG.info("NVML: %d GPUs answer again", len(trial.readable))

    def _end(self, conversation: NvmlConversation | None) -> None:
        if conversation is not None and not conversation.child.end(_END_GRACE_NS):
            self._undead.append(conversation.child)

    def _abandon(self, conversation: NvmlConversation | None) -> None:
        if conversation is not None:
            conversation.child.abandon()
            if conversation.child.ending() is None:
                self._undead.append(conversation.child)


@BUILT_IN.register("nvml", default=True)
def make_nvml(options: CollectorOptions, clock: Clock) -> NvmlProcess:
    """The NVML collector with its own child."""
    return NvmlProcess(options, clock)
