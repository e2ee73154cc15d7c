"""Small traces written by hand: every time in them is known."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

from apportion.profiles.device_trace import DeviceTrace
from apportion.profiles.kineto_trace import read_kineto

Json = dict[str, object]


def kernel(
    name: str,
    start_us: float,
    duration_us: float,
    correlation: int | None = None,
    *,
    stream: int = 7,
    facts: Json | None = None,
) -> Json:
    """A kernel, or what its name says that it is."""
    kind = {"Memcpy": "gpu_memcpy", "Memset": "gpu_memset"}.get(name[:6], "kernel")
    arguments: Json = {"device": 0, "stream": stream, **(facts or {})}
    if correlation is not None:
        arguments["correlation"] = correlation
    return complete(kind, name, start_us, duration_us, pid=0, tid=stream, args=arguments)


def launch(start_us: float, correlation: int, thread: int = 1) -> Json:
    """A launch that takes 2 us."""
    return complete(
        "cuda_runtime",
        "cudaLaunchKernel",
        start_us,
        2,
        tid=thread,
        args={"correlation": correlation},
    )


def step(number: int, start_us: float, duration_us: float) -> Json:
    """A step's annotation."""
    return complete("user_annotation", f"ProfilerStep#{number}", start_us, duration_us)


def complete(kind: str, name: str, start_us: float, duration_us: float, **more: object) -> Json:
    """An event with a duration."""
    times: Json = {"ts": start_us, "dur": duration_us}
    return {"ph": "X", "cat": kind, "name": name, "pid": 1, "tid": 1, **times, **more}


def document(events: Sequence[Json], *, rank: int | None = None, **more: object) -> Json:
    """A whole trace."""
    found: Json = {"schemaVersion": 1, "traceEvents": list(events), **more}
    if rank is not None:
        found["distributedInfo"] = {"backend": "nccl", "rank": rank, "world_size": 2}
    return found


def trace_of(events: Sequence[Json], *, rank: int | None = None) -> DeviceTrace:
    """The trace as its reader sees it."""
    text = json.dumps(document(events, rank=rank)).encode()
    return read_kineto(io.BytesIO(text), "written.json")


def save(path: Path, content: Json) -> Path:
    """Write a trace, packed if the name says so."""
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
