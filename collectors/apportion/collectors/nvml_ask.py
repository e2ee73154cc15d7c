"""Asking one handle of NVML: what it cannot tell is found out once and never asked again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from apportion.collectors.nvml_error import (
    NvmlEmpty,
    NvmlError,
    NvmlForbidden,
    NvmlTransient,
    NvmlUnsupported,
)
from apportion.collectors.nvml_library import NvmlHandle

T = TypeVar("T")

FORGET_EVERY: Final = 60
"""After so many rounds what was forbidden is asked for again: rights may have been given."""


class NvmlAsk:
    """Questions to the device or MIG instance behind `handle`, by names of our own."""

    def __init__(self, handle: NvmlHandle) -> None:
        self.handle = handle
        self._forbidden = set[str]()
        self._rounds = 0
        self.unsupported = set[str]()
        self.troubles: list[NvmlError] = []
        """What went wrong in this round."""

    @property
    def is_forbidden(self) -> bool:
        """Whether some question was refused for want of rights."""
        return bool(self._forbidden)

    def begin(self) -> bool:
        """A new round; True where what was forbidden will be asked again."""
        self.troubles.clear()
        self._rounds += 1
        if not self._forbidden or self._rounds % FORGET_EVERY:
            return False
        self.unsupported -= self._forbidden
        self._forbidden.clear()
        return True

    def __call__(self, name: str, read: Callable[[NvmlHandle], T]) -> T | None:
        """What `read` answers; None where it cannot.

        Raises:
            DeviceLost: the device no longer answers.
            SourceLost: NVML itself no longer answers.
        """
        if name in self.unsupported:
            return None
        try:
            return read(self.handle)
        except NvmlUnsupported as error:
            self.unsupported.add(name)
            if isinstance(error, NvmlForbidden):
                self._forbidden.add(name)
                self.troubles.append(error)
        except NvmlTransient as error:
            self.troubles.append(error)
        except NvmlEmpty:
            pass
        return None
