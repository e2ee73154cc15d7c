"""What else the program has loaded that a span must know of: event loops, and PyTorch.

To look at every span would cost a tenth of it. An event loop decides what is inside of what, so
`running_loop` is exact: until asyncio is imported it gives asyncio's module, of which there is
none. The rest is looked up by every span that takes the long way, and at least one in 256 does.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Final

from apportion.client.devices_here import devices_here

_modules: Final = sys.modules


def _trio_runs() -> object | None:
    trio: Any = _modules.get("trio")
    return True if trio is not None and trio.lowlevel.in_trio_run() else None


def _asyncio_or_trio_runs() -> object | None:
    asyncio: Any = _modules["asyncio"]
    running: object | None = asyncio._get_running_loop()  # noqa: SLF001 - documented, unlike its name
    return running or _trio_runs()


def _always_runs() -> object | None:
    return True


_asyncio_is_loaded: Final = functools.partial(_modules.get, "asyncio")


def _was_built_for_devices(torch: Any) -> bool:
    """Whether a PyTorch is no build for the CPU alone; one that is being imported may be none."""
    version: Any = getattr(torch, "version", None)
    if version is None:
        return True
    return getattr(version, "cuda", None) is not None or getattr(version, "hip", None) is not None


class Surroundings:
    """What is loaded, as of the last `look()`."""

    __slots__ = ("cuda", "devices", "modules", "running_loop", "torch")

    def __init__(self) -> None:
        self.modules = 0
        """How many modules were loaded: another number is worth a look."""
        self.torch = False
        """Whether PyTorch is loaded."""
        self.cuda = False
        """Whether it can use CUDA (or ROCm), so that this may become initialised."""
        self.devices: bool | None = None
        """Whether there is a device for it; None until a PyTorch that can use some is seen."""
        self.running_loop: Callable[[], object | None] = _asyncio_is_loaded
        """Gives None where no tasks can take turns on the calling thread."""

    def look(self) -> None:
        """See what is loaded now."""
        if len(_modules) == self.modules:
            return
        self.modules = len(_modules)
        torch = _modules.get("torch")
        self.torch = torch is not None
        self.cuda = torch is not None and _was_built_for_devices(torch) and self._has_devices()
        if "gevent" in _modules or "eventlet" in _modules:  # whose tasks do not say that they run
            self.running_loop = _always_runs
        elif "trio" in _modules:
            self.running_loop = _asyncio_or_trio_runs if "asyncio" in _modules else _trio_runs
        else:
            # While asyncio is being imported its name is there and its functions are not.
            asyncio: Any = _modules.get("asyncio")
            self.running_loop = getattr(asyncio, "_get_running_loop", _asyncio_is_loaded)

    def _has_devices(self) -> bool:
        if self.devices is None:
            self.devices = devices_here()
        return self.devices


surroundings: Final = Surroundings()
