"""Why a ring was refused or put in quarantine: a closed set, for metrics and reports."""

from __future__ import annotations

from enum import Enum

from apportion.core.errors import RingError


class Refusal(str, Enum):
    """The reason, as metrics label it. The text beside it says what was seen."""

    NO_ACCESS = "no_access"
    """The agent may not open it."""
    NOT_REGULAR = "not_regular"
    """A symbolic link, FIFO, socket, device or directory that has a ring's name."""
    FOREIGN_OWNER = "foreign_owner"
    """Its owner is not among the users whose rings are read, or changed while it was read."""
    HARD_LINKED = "hard_linked"
    """It has a second name: it may be another file that its writer does not own."""
    WRONG_SIZE = "wrong_size"
    """The file is not as long as its header says."""
    TRUNCATED = "truncated"
    """It became shorter while it was read."""
    UNKNOWN_VERSION = "unknown_version"
    """Written by a client newer than this agent."""
    BAD_HEADER = "bad_header"
    """The header contradicts the layout, its file's name, or what it said before."""
    OTHER_BOOT = "other_boot"
    """Written before the host was rebooted: its clock is not comparable with this one."""
    INCOMPLETE = "incomplete"
    """Its writer died before the file was complete."""
    CORRUPT = "corrupt"
    """A slot holds a sequence that cannot be there."""
    UNREADABLE = "unreadable"
    """The system failed to read it."""
    TOO_MANY = "too_many"
    """More rings than the agent was told to follow."""


class RingRefused(RingError):
    """A ring that is no longer read; `reason` is its class, the message says what was seen."""

    def __init__(self, reason: Refusal, message: str) -> None:
        self.reason = reason
        super().__init__(message)
