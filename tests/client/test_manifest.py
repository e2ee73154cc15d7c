"""With what a process computes: what is said of it, and what never is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.client.decoded import only

from apportion import client
from apportion.client import layout
from apportion.client.manifest import TEXT_LENGTH, manifest

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC\n"


def nothing(*_: object) -> Any:
    raise AssertionError("no such thing in this build")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts modules where a program that imported them has them, and no others."""

    def put(**modules: object) -> None:
        for name in layout.MANIFEST_PACKAGES:
            monkeypatch.delitem(sys.modules, name, raising=False)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    return put


def torch(**changes: object) -> ModuleType:
    """A torch of few lines."""
    module = ModuleType("torch")
    module.__dict__.update(
        __version__="2.13.0",
        version=SimpleNamespace(cuda="12.8", hip=None),
        backends=SimpleNamespace(
            cudnn=SimpleNamespace(version=lambda: 91002, deterministic=True, benchmark=False)
        ),
        cuda=SimpleNamespace(nccl=SimpleNamespace(version=lambda: (2, 27, 3))),
        initial_seed=lambda: 7,
        are_deterministic_algorithms_enabled=lambda: True,
        get_float32_matmul_precision=lambda: "high",
        get_num_threads=lambda: 4,
    )
    module.__dict__.update(changes)
    return module


@pytest.mark.parametrize(("said", "driver"), [(OPEN, "550.54.15"), (CLOSED, "535.104.05")])
def test_what_is_said(tmp_path: Path, use: Callable[..., None], said: str, driver: str) -> None:
    """Texts, in the order in which a report shows them."""
    use(torch=torch(), numpy=SimpleNamespace(__version__="2.2.1"))
    (tmp_path / "version").write_text(said)
    found = manifest(tmp_path / "version")
    assert ".".join(map(str, sys.version_info[:3])) == found.pop("python")
    assert found.pop("system")
    assert {
        "driver": driver,
        "torch": "2.13.0",
        "numpy": "2.2.1",
        "cuda": "12.8",
        "cudnn": "91002",
        "nccl": "2.27.3",
        "seed": "7",
        "deterministic": "true",
        "cudnn_deterministic": "true",
        "cudnn_benchmark": "false",
        "matmul_precision": "high",
        "threads": "4",
    } == found
    assert [key for key in layout.MANIFEST_KEYS if key in found] == list(found)


def test_what_is_not_known_is_absent(tmp_path: Path, use: Callable[..., None]) -> None:
    """No driver, an old or half-imported torch, a version that is no text: nothing is made up."""
    use(
        torch=torch(initial_seed=nothing, cuda=None, backends=None, get_num_threads=None),
        numpy=SimpleNamespace(__version__=["2"]),
        vllm=SimpleNamespace(),
        peft=SimpleNamespace(__version__="x" * 1000),
    )
    found = manifest(tmp_path / "missing")
    absent = {"driver", "seed", "cudnn", "nccl", "threads", "numpy", "vllm", "hip"}
    assert set() == absent & set(found)
    assert {"torch", "cuda", "deterministic"} <= set(found)
    assert TEXT_LENGTH == len(found["peft"])


def test_it_is_in_the_ring(directory: Path, use: Callable[..., None]) -> None:
    """As of the first span, when the program is set up; nothing of the environment is in it."""
    use(torch=torch())
    with client.step(1):
        pass
    said = only(directory).identity["manifest"]
    assert ("2.13.0", "7", "true") == (said["torch"], said["seed"], said["deterministic"])
    assert set(said) <= set(layout.MANIFEST_KEYS)
    longest = dict.fromkeys(layout.MANIFEST_KEYS, "x" * TEXT_LENGTH)
    assert len(json.dumps(longest)) < layout.IDENTITY_BYTES - 512
