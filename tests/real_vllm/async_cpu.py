"""A platform for vLLM: its own CPU, with asynchronous scheduling, which vLLM switches off there.

vLLM finds it by the entry point `vllm.platform_plugins` and loads it in each of its processes. All
that asynchronous scheduling is, is vLLM's: scheduler, queue of batches, the model's runner and the
thread that hands over its outputs. What a CPU lacks are CUDA's streams and events. It computes in
the order in which it is told to, and is done when a call returns: so there is nothing to wait for.
"""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any, Final

_torch: Any = importlib.import_module("torch")
_CpuPlatform: Any = importlib.import_module("vllm.platforms.cpu").CpuPlatform


class Platform(_CpuPlatform):  # type: ignore[misc] # vLLM is not installed where types are checked
    """vLLM's CPU, but for the one setting."""

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Leave asynchronous scheduling as it was chosen."""
        above: Any = super()
        chosen = vllm_config.scheduler_config.async_scheduling
        above.check_and_update_config(vllm_config)
        vllm_config.scheduler_config.async_scheduling = chosen


def platform() -> str:
    """Its name, for vLLM."""
    return f"{__name__}.{Platform.__name__}"


class _InOrder:
    """A stream or an event of work that is done already."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def record(self, *_: object) -> None:
        """It happens now."""

    def synchronize(self) -> None:
        """It has happened."""

    def wait_stream(self, *_: object) -> None:
        """The same."""


_CUDA: Final = {
    "Event": _InOrder,
    "Stream": _InOrder,
    "current_stream": _InOrder,
    "stream": nullcontext,
}
for _name, _stands_in in _CUDA.items():
    setattr(_torch.cuda, _name, _stands_in)
