"""What training a token takes, by the parameters of a model (test_trainers.py has real ones)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.client.decoded import read, rings

from apportion import client
from apportion.client.model_size import flops_per_token
from apportion.client.session import declare


def parameter(numbers: int, *, trained: bool = True, plain: bool = True, **more: object) -> Any:
    return SimpleNamespace(
        numel=lambda: numbers, requires_grad=trained, is_floating_point=lambda: plain, **more
    )


def module(*parameters: object, **more: object) -> Any:
    def own(*, recurse: bool) -> list[object]:
        assert not recurse
        return list(parameters)

    return SimpleNamespace(parameters=own, **more)


def model(*modules: object, **config: object) -> Any:
    return SimpleNamespace(modules=lambda: iter(modules), config=SimpleNamespace(**config))


TABLE = parameter(100)


@pytest.mark.parametrize(
    ("whole", "flops"),
    [
        (model(module(parameter(7), parameter(3))), 60),
        (model(module(parameter(7)), module(parameter(10, trained=False))), 82),
        (model(module(TABLE, num_embeddings=10), module(parameter(7))), 42),
        (model(module(TABLE, num_embeddings=10), module(TABLE)), 600),
        (model(module(TABLE), module(TABLE)), 600),
        (model(module(parameter(0, ds_numel=7))), 42),
        (model(module(parameter(7)), num_experts=None), 42),
        (model(module(parameter(7)), num_local_experts=8), None),
        (model(module(parameter(7)), text_config=SimpleNamespace(num_experts=8)), None),
        (model(module(parameter(7), parameter(7, plain=False))), None),
        (model(module(parameter(7, device_mesh="tp"))), None),
        (model(module(parameter(7), _fsdp_wrapped_module="a part")), None),
        (model(module()), None),
    ],
)
def test_operations_of_a_token(whole: Any, flops: int | None) -> None:
    """Each parameter that a token passes counts once; what cannot be known is not said."""
    assert flops == flops_per_token(whole)
    assert {} == client.counts()


def test_what_is_no_model_raises_nothing() -> None:
    """An integration is called with whatever the trainer holds."""
    assert flops_per_token(None) is None
    assert {"internal_error": 1} == client.counts()


def test_what_an_integration_declares(directory: Path) -> None:
    """The user's word goes before; a process that trains another model has another ring."""
    for facts in ({"rank": 1, "flops_per_token": 42}, {"rank": 1, "flops_per_token": 42}, {}):
        declare(**facts)
        with client.step(1):
            pass
    client.init(workload="told", directory=directory, parameters=1)
    declare(flops_per_token=42, world_size=None)
    with client.step(1):
        pass
    found = [read(path) for path in rings(directory)]
    said = {
        (ring.identity["workload"], ring.identity.get("flops_per_token"), ring.identity.get("rank"))
        for ring in found
    }
    assert {("test", 42, 1), ("test", None, None), ("told", 6, None)} == said
    assert len(found) == len(said)
