"""What else the program has loaded that a span must know of, looked up when modules come or go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

_modules: Final = sys.modules


def _trio_runs() -> object | None:
    trio: Any = _modules["trio"]
    return True if trio.lowlevel.in_trio_run() else None


def _asyncio_or_trio_runs() -> object | None:
    asyncio: Any = _modules["asyncio"]
    running: object | None = asyncio._get_running_loop()  # noqa: SLF001 - documented, unlike its name
    return running or _trio_runs()


def _always_runs() -> object | None:
    return True


class Surroundings:
    """Compare `modules` with `len(sys.modules)`, and `look()` where they differ."""

    __slots__ = ("modules", "running_loop", "torch")

    def __init__(self) -> None:
        self.modules = 0
        self.torch = False
        """Whether PyTorch is loaded, so that CUDA may become initialised."""
        self.running_loop: Callable[[], object | None] | None = None
        """Gives something where tasks may take turns on the calling thread; None: nowhere."""

    def look(self) -> None:
        """See what is loaded now."""
        self.modules = len(_modules)
        self.torch = "torch" in _modules
        asyncio: Any = _modules.get("asyncio")
        if "gevent" in _modules or "eventlet" in _modules:  # whose tasks do not say that they run
            self.running_loop = _always_runs
        elif "trio" in _modules:
            self.running_loop = _trio_runs if asyncio is None else _asyncio_or_trio_runs
        else:
            # A half-imported asyncio has run no loop yet; its import ends with more modules.
            self.running_loop = getattr(asyncio, "_get_running_loop", None)


surroundings: Final = Surroundings()
