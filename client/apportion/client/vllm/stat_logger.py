"""vLLM's plugin: each finished request, with the engine's own tokens and times.

vLLM finds it by the entry point `vllm.stat_logger_plugins` and calls it in each process that
answers HTTP, after each iteration that had something for that process. Only vLLM imports this
module, which needs vLLM's base class. vLLM calls its statistics no stable interface, so each is
read by name, and what is missing is counted. An exception from here would end all requests that
are under way: none leaves.
"""

from __future__ import annotations

import importlib
from time import monotonic_ns
from typing import Any, Final

from apportion.client import iterations
from apportion.client.announced import Told
from apportion.client.counting import count
from apportion.client.engine import engine_requests
from apportion.client.iterations import Iteration
from apportion.client.session import ready, session
from apportion.client.vllm.engine_clock import EngineClock
from apportion.client.vllm.installed import server_logger
from apportion.client.vllm.parallel import parallel_sizes

_BASE: Any = importlib.import_module("vllm.v1.metrics.loggers").StatLoggerBase
_STATUSES: Final = {"abort": "cancelled", "error": "error"}
"""By vLLM's finish reason; all others are ok."""
_NS: Final = 1e9


class StatLogger(_BASE):  # type: ignore[misc] # vLLM is not installed where types are checked
    """The requests of one engine. vLLM makes one for each engine, in each API server."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self._engine = engine_index
        self._since_ns = monotonic_ns()
        self._clock = EngineClock()
        self._staggered = False
        """Whether a request skips iterations, so that its tokens are several of them apart."""
        self._speaks = False
        try:
            self._speaks = _says_ids()
            if self._speaks:
                engine_requests.model = _served_model(vllm_config)
                parallel = getattr(vllm_config, "parallel_config", None)
                self._staggered = getattr(parallel, "pipeline_parallel_size", 1) > 1
                engine_requests.speaks = True
                session.set_parallel(parallel_sizes(vllm_config))
            else:
                server_logger().warning(
                    "this vLLM does not say which request has finished: requests are those of "
                    "apportion.client.asgi.RequestMiddleware, with the tokens of their `usage`"
                )
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")

    def log_engine_initialized(self) -> None:
        """The model is loaded: what came before was startup."""
        ready()

    def log(self) -> None:
        """Nothing is summed up here."""

    def record(
        self, scheduler_stats: Any = None, iteration_stats: Any = None, *_: Any, **__: Any
    ) -> None:
        """An iteration has ended; either of its statistics may be None."""
        if not self._speaks:
            return
        heard_ns = monotonic_ns()
        try:
            apart_ns = 0 if self._staggered else _apart_ns(iteration_stats)
            end_ns = self._clock.ended(heard_ns, apart_ns)
            if scheduler_stats is not None:
                engine_requests.queue(self._engine, _waiting(scheduler_stats))
                details = getattr(scheduler_stats, "iteration_details", None)
                if details is not None:  # before its requests: who reads them knows it
                    iterations.record(_iteration(self._engine, details, end_ns, apart_ns))
            for finished in getattr(iteration_stats, "finished_requests", ()):
                told = _told(finished, end_ns, self._since_ns, self._engine)
                engine_requests.tell(finished.request_id, told)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("engine_unknown")


def _says_ids() -> bool:
    """Whether this vLLM's statistics name the request: those of early versions do not."""
    finished: Any = importlib.import_module("vllm.v1.metrics.stats").FinishedRequestStats
    return "request_id" in finished.__dataclass_fields__


def _served_model(vllm_config: Any) -> str | None:
    """The name that callers ask for, which may be a list of names for the same."""
    config = vllm_config.model_config
    served: Any = getattr(config, "served_model_name", None) or getattr(config, "model", None)
    name = served if isinstance(served, str) else next(iter(served or ()), None)
    return name if isinstance(name, str) else None


def _waiting(stats: Any) -> int:
    """Requests that the scheduler has not admitted."""
    return int(stats.num_waiting_reqs) + int(getattr(stats, "num_skipped_waiting_reqs", 0))


def _apart_ns(stats: Any) -> int:
    """How long after the one before it an iteration ended, by the engine's clock; 0: not known.

    vLLM tells of each token but first ones how long ago the same request had its last one.
    """
    tokens_s = getattr(stats, "inter_token_latencies_iter", None)
    return round(min(tokens_s) * _NS) if tokens_s else 0


def _iteration(engine: int, details: Any, end_ns: int, apart_ns: int) -> Iteration:
    """With `--enable-logging-iteration-details`: it ended at `end_ns`."""
    return Iteration(
        engine,
        details.iteration_index,
        end_ns,
        max(apart_ns, round(details.elapsed_ms * 1e6)),
        details.num_ctx_requests,
        details.num_ctx_tokens,
        details.num_generation_requests,
        details.num_generation_tokens,
    )


def _told(finished: Any, end_ns: int, since_ns: int, engine: int) -> Told:
    """Of its times vLLM says lengths only, back from its last token at `end_ns`.

    A time before `since_ns`, when there was no engine, is a length of something that never was:
    of a request that was not scheduled, say.
    """
    scheduled_ns = end_ns - round(finished.inference_time * _NS)
    first_token_ns = end_ns - round(finished.decode_time * _NS)
    queued_ns = scheduled_ns - round(finished.queued_time * _NS)
    if not since_ns <= queued_ns <= scheduled_ns <= first_token_ns <= end_ns:
        queued_ns = scheduled_ns = first_token_ns = 0
    output_tokens = finished.num_generation_tokens
    return Told(
        queued_ns,
        scheduled_ns,
        first_token_ns if output_tokens else 0,
        end_ns,
        finished.num_prompt_tokens,
        getattr(finished, "num_cached_tokens", None),
        output_tokens,
        getattr(finished, "num_preemptions", None),
        _STATUSES.get(str(finished.finish_reason), "ok"),
        engine,
    )
