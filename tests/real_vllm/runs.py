"""The ways in which `make test-vllm` runs a vLLM, and what is known of its requests in each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from apportion.cost.methods.names import Method

MIDDLEWARE: Final = ("--middleware", "apportion.client.asgi.RequestMiddleware")
COUNTS: Final = (*MIDDLEWARE, "--enable-logging-iteration-details")
EXACT_SCHEDULER: Final = "apportion.client.vllm.scheduler.ExactScheduler"
_SCHEDULER: Final = "vllm.v1.core.sched.scheduler.Scheduler"
_ASYNC_SCHEDULER: Final = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
NO_PLUGIN: Final = MappingProxyType({"VLLM_PLUGINS": ""})
_TWO_SERVERS: Final = ("--api-server-count", "2")
_TWO_ENGINES: Final = ("--data-parallel-size", "2")


class Run(NamedTuple):
    """How a vLLM is started, and what follows from that."""

    flags: tuple[str, ...]
    method: Method | None
    """By which its requests are to be settled, with that method's bound; None: by no stated one."""
    variables: Mapping[str, str] = MappingProxyType({})
    scheduler: str = _SCHEDULER
    """On which the one is that writes the true batches down."""
    processes: int = 1
    """That requests come from."""
    is_async: bool = False
    """Whether vLLM schedules the next iteration while one is computed."""
    by_otlp: bool = False
    tells_iterations: bool = False
    knows_tenants: bool = True
    knows_cached: bool = True
    knows_admission: bool = True


RUNS: Final = {
    "counts": Run(COUNTS, Method.ROOFLINE_COUNTS, tells_iterations=True),
    "exact": Run(
        MIDDLEWARE, Method.ROOFLINE_TWO_PART, scheduler=EXACT_SCHEDULER, tells_iterations=True
    ),
    "windows": Run(MIDDLEWARE, Method.ROOFLINE_WINDOWS),
    "otlp": Run((), None, NO_PLUGIN, by_otlp=True, knows_tenants=False, knows_cached=False),
    "middleware": Run(MIDDLEWARE, None, NO_PLUGIN, knows_admission=False),
    "counts-two-servers": Run(
        (*COUNTS, *_TWO_SERVERS), Method.ROOFLINE_COUNTS, processes=2, tells_iterations=True
    ),
    "exact-two-servers": Run(
        (*MIDDLEWARE, *_TWO_SERVERS),
        Method.ROOFLINE_TWO_PART,
        scheduler=EXACT_SCHEDULER,
        processes=2,
        tells_iterations=True,
    ),
    "counts-two-engines": Run(
        (*COUNTS, *_TWO_ENGINES), Method.ROOFLINE_COUNTS, tells_iterations=True
    ),
    "exact-two-engines": Run(
        (*MIDDLEWARE, *_TWO_ENGINES),
        Method.ROOFLINE_TWO_PART,
        scheduler=EXACT_SCHEDULER,
        tells_iterations=True,
    ),
    "counts-async": Run(
        COUNTS,
        Method.ROOFLINE_COUNTS,
        scheduler=_ASYNC_SCHEDULER,
        is_async=True,
        tells_iterations=True,
    ),
    "exact-async": Run(
        MIDDLEWARE,
        Method.ROOFLINE_TWO_PART,
        scheduler=EXACT_SCHEDULER,
        is_async=True,
        tells_iterations=True,
    ),
}
