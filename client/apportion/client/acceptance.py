"""Work for `apportion doctor --accept`: `python -m apportion.client.acceptance work|clocks STEPS`.

`work` does steps of the same size, with the client around them, on the GPU where PyTorch has one
and else on the CPU. `clocks` measures the phases of steps by the host's clock and by CUDA events,
which say how long the device took. Each prints one JSON object. It runs in the interpreter of the
user's programs, which needs `apportion`'s base install only.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from apportion.client.session import init
from apportion.client.training import step

PHASES: Final = (("forward", 1), ("backward", 2))
"""Each with how often it does what a phase does once."""
SIZE: Final = 4_096
"""Of the square matrices that are multiplied on a GPU."""
PRODUCTS: Final = 4
ADDITIONS: Final = 100_000
DRIVERS: Final = ("/dev/nvidiactl", "/dev/dxg")
"""One of them is there where a driver is; the second under Windows."""
_NS: Final = 1e9


def main(arguments: list[str]) -> int:
    """Do what is asked; 2 where it is neither."""
    what, steps = arguments[0], int(arguments[1])
    if what not in {"work", "clocks"}:
        sys.stderr.write(f"acceptance: {what!r} is neither work nor clocks\n")
        return 2
    torch = _torch()
    if what == "work":
        result = work(steps, torch)
    elif torch is None:
        result = {"missing": f"{sys.executable} has no PyTorch with CUDA"}
    else:
        result = clocks(steps, torch)
    sys.stdout.write(f"{json.dumps(result)}\n")
    return 0


def work(steps: int, torch: Any) -> dict[str, Any]:
    """Steps of the same size, and how long they took. The first one is not counted."""
    once = _on_cpu if torch is None else _on_gpu(torch)
    wait: Callable[[], object] = (lambda: None) if torch is None else torch.cuda.synchronize
    init(workload="acceptance")
    start_ns = 0
    for number in range(steps + 1):
        with step(number) as one:
            for name, times in PHASES:
                with one.phase(name):
                    for _ in range(times):
                        once()
            wait()
        if number == 0:
            start_ns = time.perf_counter_ns()
    taken_s = (time.perf_counter_ns() - start_ns) / _NS
    return {"device": "cpu" if torch is None else "cuda", "steps": steps, "seconds": taken_s}


def clocks(steps: int, torch: Any) -> dict[str, Any]:
    """Nanoseconds of each phase, by the host's clock and by the device's, and of whole steps."""
    once = _on_gpu(torch)
    host_ns = dict.fromkeys((name for name, _ in PHASES), 0)
    device_ns = dict(host_ns)
    steps_ns = 0
    for number in range(steps + 1):
        torch.cuda.synchronize()
        edges = [torch.cuda.Event(enable_timing=True) for _ in range(len(PHASES) + 1)]
        edges[0].record()
        times_ns = [time.perf_counter_ns()]
        for (_, times), edge in zip(PHASES, edges[1:], strict=True):
            for _ in range(times):
                once()
            edge.record()
            times_ns.append(time.perf_counter_ns())
        torch.cuda.synchronize()
        if number == 0:
            continue  # it loads kernels
        steps_ns += time.perf_counter_ns() - times_ns[0]
        for place, (name, _) in enumerate(PHASES):
            host_ns[name] += times_ns[place + 1] - times_ns[place]
            milliseconds: float = edges[place].elapsed_time(edges[place + 1])
            device_ns[name] += round(milliseconds * 1e6)
    return {"steps": steps, "host_ns": host_ns, "device_ns": device_ns, "steps_ns": steps_ns}


def _on_cpu() -> object:
    return sum(range(ADDITIONS))


def _on_gpu(torch: Any) -> Callable[[], object]:
    matrix = torch.rand(SIZE, SIZE, device="cuda")

    def once() -> None:
        for _ in range(PRODUCTS):
            torch.mm(matrix, matrix)

    return once


def _torch() -> Any:
    """PyTorch, where it is here and sees a GPU; without a driver it is not even imported."""
    if not any(Path(device).exists() for device in DRIVERS):
        return None
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
