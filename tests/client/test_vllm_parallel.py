"""How vLLM says that a server is spread over devices, and what a ring says of that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from apportion.client import layout
from apportion.client.vllm.parallel import engine_index, parallel_of_engine, parallel_sizes


def config(*, is_moe: bool = False, **parallel: Any) -> SimpleNamespace:
    """As vLLM 0.32 has it for a server of one engine on one device, if not said otherwise."""
    tensor, pipeline = (parallel.get(f"{name}_parallel_size", 1) for name in ("tensor", "pipeline"))
    whole = {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "data_parallel_size_local": parallel.get("data_parallel_size", 1),
        "data_parallel_index": 0,
        "data_parallel_rank_local": None,
        "data_parallel_external_lb": False,
        "data_parallel_hybrid_lb": False,
        "data_parallel_backend": "mp",
        "distributed_executor_backend": "mp",
        "enable_expert_parallel": False,
        "local_world_size": tensor * pipeline,
    }
    return SimpleNamespace(
        model_config=SimpleNamespace(is_moe=is_moe),
        parallel_config=SimpleNamespace(**{**whole, **parallel}),
    )


def said(*numbers: int) -> dict[str, int]:
    """By the keys of the layout, in their order."""
    return dict(zip(layout.PARALLEL_KEYS, numbers, strict=True))


TWO: dict[str, Any] = {"data_parallel_size": 2}


@pytest.mark.parametrize(
    ("vllm", "expected"),
    [
        (config(), said(1, 1, 1, 0, 1, 1, 1, 1)),
        (
            config(tensor_parallel_size=2, pipeline_parallel_size=2, **TWO),
            said(2, 2, 2, 0, 2, 2, 4, 1),
        ),
        # the head of a server over two hosts, an engine on each
        (config(data_parallel_size_local=1, **TWO), said(1, 1, 2, 0, 2, 1, 1, 1)),
        # the second of two servers behind somebody else's balancer
        (
            config(
                data_parallel_external_lb=True,
                data_parallel_size_local=1,
                data_parallel_index=1,
                **TWO,
            ),
            said(1, 1, 2, 1, 1, 1, 1, 1),
        ),
        (
            config(data_parallel_rank_local=1, data_parallel_index=1, **TWO),
            said(1, 1, 2, 1, 1, 1, 1, 1),
        ),
        # an engine over two hosts
        (config(tensor_parallel_size=4, local_world_size=2), said(4, 1, 1, 0, 1, 1, 2, 1)),
        (config(is_moe=True, **TWO), said(1, 1, 2, 0, 2, 2, 1, 0)),
        (config(data_parallel_backend="ray", **TWO), said(1, 1, 2, 0, 2, 2, 1, 0)),
        (object(), {}),
        (SimpleNamespace(parallel_config=SimpleNamespace(tensor_parallel_size="2")), {}),
    ],
)
def test_sizes(vllm: Any, expected: dict[str, int]) -> None:
    """Of each way to run several engines; nothing of a configuration that is another one."""
    assert parallel_sizes(vllm) == expected


def test_an_engine_says_it_of_itself() -> None:
    """In its own process: it is one, wherever its server begins to count."""
    vllm = config(data_parallel_index=3, tensor_parallel_size=2)
    assert parallel_of_engine(vllm) == said(2, 1, 1, 3, 1, 1, 2, 1)
    assert parallel_of_engine(object()) == {}
    assert engine_index(object()) == 0
    early = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_rank=2))
    assert engine_index(early) == 2
