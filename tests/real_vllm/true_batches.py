"""A scheduler for vLLM that writes down the true batches: `--scheduler-cls true_batches.Scheduler`.

It runs in the process of vLLM's engine core, where nothing but vLLM, `apportion` and the standard
library is, and is on top of the scheduler that is named in $TRUE_BATCHES_OF (else vLLM's own). To
$TRUE_BATCHES goes a line for each iteration: [index of the engine; when it was scheduled, when its
output was there, by `time.monotonic_ns()`; then [vLLM's id, new tokens, tokens before] for each
request].
"""

from __future__ import annotations

import importlib
import json
import os
from collections import deque
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

_module, _, _name = os.environ.get(
    "TRUE_BATCHES_OF", "vllm.v1.core.sched.scheduler.Scheduler"
).rpartition(".")
_BASE: Final[Any] = getattr(importlib.import_module(_module), _name)


def _watched(of: Any) -> Any:
    """`of`, a class, with its iterations written down."""

    class Watched(of):  # type: ignore[misc] # vLLM is not installed where types are checked
        def schedule(self, *arguments: Any, **named: Any) -> Any:
            begun_ns, this = monotonic_ns(), _of(self)
            above: Any = super()
            output: Any = above.schedule(*arguments, **named)
            scheduled: dict[str, int] = output.num_scheduled_tokens
            batch: list[list[Any]] = [
                [name, tokens, this.requests[name].num_computed_tokens - tokens]
                for name, tokens in scheduled.items()
            ]
            _under_way.append((id(output), begun_ns, batch))
            return output

        def update_from_output(self, scheduler_output: Any, *rest: Any, **named: Any) -> Any:
            above: Any = super()
            result: Any = above.update_from_output(scheduler_output, *rest, **named)
            while _under_way:
                which, begun_ns, batch = _under_way.popleft()
                if which == id(scheduler_output):
                    if batch:
                        engine = _of(self).vllm_config.parallel_config.data_parallel_index
                        line = json.dumps([engine, begun_ns, monotonic_ns(), batch])
                        _log.write(line + "\n")
                    break
            return result

    return Watched


def _of(scheduler: object) -> Any:
    return scheduler


_under_way: deque[tuple[int, int, list[list[Any]]]] = deque()
_log = Path(os.environ["TRUE_BATCHES"]).open("a", buffering=1)  # noqa: SIM115 - to the end


class Scheduler(_BASE):  # type: ignore[misc]
    """The base's own choice, if it makes one, watched."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        choose: Any = getattr(_BASE, "chosen", None)
        return _watched(choose(**named) if choose else _BASE)(*arguments, **named)
