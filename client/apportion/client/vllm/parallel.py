"""How vLLM has spread a server over devices, as a ring's identity says it (`PARALLEL_KEYS`)."""

from __future__ import annotations

from typing import Any, Final

_SIZES: Final = {
    "tensor": "tensor_parallel_size",
    "pipeline": "pipeline_parallel_size",
    "data": "data_parallel_size",
}
_LOCAL: Final = ("data_parallel_external_lb", "data_parallel_hybrid_lb")
"""Where one of them is set, a server asks the engines of its own host only."""


def parallel_sizes(vllm_config: Any) -> dict[str, int]:
    """Of a process that answers HTTP, from vLLM's configuration; empty where that has none.

    Data-parallel engines of a dense model have devices of their own. Those of a mixture of experts
    run in step, and each computes with some of the experts for all. Ray puts them where it likes.
    """
    parallel = getattr(vllm_config, "parallel_config", None)
    sizes = {name: _size(parallel, field) for name, field in _SIZES.items()}
    if parallel is None or not all(sizes.values()):
        return {}
    here = getattr(parallel, "data_parallel_size_local", None)
    here = here if isinstance(here, int) else sizes["data"]
    if getattr(parallel, "data_parallel_rank_local", None) is not None:
        engines = here = 1  # one process for each engine
    elif any(getattr(parallel, name, None) is True for name in _LOCAL):
        engines = here
    else:
        engines = sizes["data"]
    return {
        **sizes,
        "first": engine_index(vllm_config),
        "engines": engines,
        "here": min(here, engines),
        "devices": _devices(parallel, sizes),
        "apart": int(not _share_devices(vllm_config)),
    }


def parallel_of_engine(vllm_config: Any) -> dict[str, int]:
    """The same of an engine's own process: of this engine alone."""
    said = parallel_sizes(vllm_config)
    return {**said, "engines": 1, "here": 1} if said else {}


def engine_index(vllm_config: Any) -> int:
    """Of an engine, its index in its server; of others, that of the first engine they ask."""
    parallel = getattr(vllm_config, "parallel_config", None)
    for name in ("data_parallel_index", "data_parallel_rank"):
        index = getattr(parallel, name, None)
        if isinstance(index, int):
            return index
    return 0


def _devices(parallel: Any, sizes: dict[str, int]) -> int:
    """Of an engine on this host: context parallelism and further hosts are in vLLM's own count."""
    said = _size(parallel, "local_world_size") or _size(parallel, "world_size")
    return said or sizes["tensor"] * sizes["pipeline"]


def _share_devices(vllm_config: Any) -> bool:
    """Whether it is not known that each engine has devices of its own, in their order."""
    said = (
        getattr(getattr(vllm_config, part, None), name, None) == value
        for part, name, value in (
            ("model_config", "is_moe", True),
            ("parallel_config", "is_moe_model", True),
            ("parallel_config", "enable_expert_parallel", True),
            ("parallel_config", "data_parallel_backend", "ray"),
            ("parallel_config", "distributed_executor_backend", "ray"),
        )
    )
    return any(said)


def _size(parallel: Any, name: str) -> int:
    value = getattr(parallel, name, None)
    return value if isinstance(value, int) and value > 0 else 0
