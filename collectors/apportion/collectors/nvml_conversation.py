"""One NVML child from its start to its end: what it says, and when it is given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from apportion.collectors.child_process import ChildProcess
from apportion.collectors.nvml_frames import FrameError, FrameReader
from apportion.collectors.nvml_messages import (
    Begin,
    DeviceAnswer,
    End,
    Hello,
    Message,
    NvmlState,
    Report,
)
from apportion.core.ids import DeviceId
from apportion.core.units import seconds

_CRASH_GRACE_NS: Final = 50_000_000


@dataclass(frozen=True, slots=True)
class ChildGivenUp:
    """The child is of no more use; `blamed` is the index of the GPU that it was reading."""

    state: NvmlState
    reason: str
    blamed: int | None = None


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a child may be silent before NVML is open, and from then on."""

    connect_ns: int
    sweep_ns: int


class NvmlConversation:
    """A started child.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        deadlines: Deadlines,
        now_ns: int,
    ) -> None:
        self.child = ChildProcess(command, environment)
        self._deadlines = deadlines
        self._frames = FrameReader()
        self._heard_ns = self._listened_ns = now_ns
        self._answered = 0
        self._readable = set[DeviceId]()
        self._gpus: dict[int, DeviceId] = {}
        self.hello: Hello | None = None
        self.in_sweep = False
        self.last_end: End | None = None
        self.readable: frozenset[DeviceId] = frozenset()
        """The GPUs that gave readings in the last whole sweep."""
        self.is_settled = False
        """In the last whole sweep every GPU has said something."""
        self.lost: ChildGivenUp | None = None
        """It is gone, late, reports that NVML failed, or talks nonsense: it must be given up."""

    @property
    def indexes(self) -> tuple[int, ...]:
        """The GPUs that it reads, by their index; none before it has opened NVML."""
        return () if self.hello is None else self.hello.indexes

    def name_of(self, index: int) -> str:
        """A GPU as a sentence names it."""
        return f"GPU {index} ({self._gpus.get(index, 'not yet named')})"

    def listen(self, now_ns: int) -> list[Message]:
        """What it said since the last call; then see whether it is `lost`."""
        listened_ns, self._listened_ns = self._listened_ns, now_ns
        data, is_open = self.child.read()
        messages: list[Message] = []
        try:
            for message in self._frames.feed(data):
                messages.append(message)
                self._note(message)
        except FrameError as error:
            self.lost = ChildGivenUp(NvmlState.FAILED, str(error))
        if self.lost is not None:
            return messages
        deadlines = self._deadlines
        limit_ns = deadlines.connect_ns if self.hello is None else deadlines.sweep_ns
        if not is_open:
            ending = self.child.ending(_CRASH_GRACE_NS) or "closed its output"
            words = self.child.last_words()
            tail = f"; its last words: {words}" if words else ""
            self.lost = self._blame(NvmlState.FAILED, f"the NVML child {ending}{tail}")
        elif data or now_ns - listened_ns > limit_ns // 2:
            # Silence counts only while we listen: a child that waited for us to read is no
            # worse than we are.
            self._heard_ns = now_ns
        elif now_ns - self._heard_ns > limit_ns:
            silent = f"NVML has not answered for {seconds(now_ns - self._heard_ns):.1f} s"
            self.lost = self._blame(NvmlState.STALLED, silent)
        return messages

    def say(self, words: bytes) -> None:
        """Tell it something; where it is gone, `listen` will find out."""
        self.child.write(words)

    def _note(self, message: Message) -> None:
        match message:
            case Hello():
                self.hello = message
            case Begin():
                self.in_sweep = True
                self._answered = 0
                self._readable.clear()
                self.is_settled = True
            case DeviceAnswer():
                self._answered += 1
                if message.gpu is not None:
                    self._gpus[message.index] = message.gpu
                if message.readings and message.gpu is not None:
                    self._readable.add(message.gpu)
                elif message.failure is None:
                    self.is_settled = False
            case End():
                self.in_sweep = False
                self.last_end = message
                self.readable = frozenset(self._readable)
            case Report(state, reason, index):
                self.lost = self._given_up(state, reason, index)
            case _:
                pass

    def _blame(self, state: NvmlState, reason: str) -> ChildGivenUp:
        """If it was reading one GPU of several, that one is suspect."""
        is_reading = self.in_sweep and self._answered < len(self.indexes)
        return self._given_up(state, reason, self.indexes[self._answered] if is_reading else None)

    def _given_up(self, state: NvmlState, reason: str, index: int | None) -> ChildGivenUp:
        if index is not None and f"GPU {index}" not in reason:
            reason = f"{reason}, while it was reading {self.name_of(index)}"
        return ChildGivenUp(state, reason, index)
