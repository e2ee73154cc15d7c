"""The trainers' callbacks, called as the real trainers do (test_trainers.py runs those)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.client.decoded import read, rings
from tests.client.test_model_size import module, parameter
from tests.client.test_optimizer_steps import ended, opened, steps

from apportion import client
from apportion.client import layout
from apportion.client.batches import samples_in, tokens_in
from apportion.client.session import session

BATCH = {"input_ids": SimpleNamespace(shape=(2, 8)), "labels": SimpleNamespace(shape=(2,))}


@pytest.fixture
def frameworks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both, with nothing in them but what a callback derives from."""
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    sys.modules["transformers"].__dict__["TrainerCallback"] = type("TrainerCallback", (), {})
    for name in ("lightning", "lightning.pytorch", "lightning.pytorch.callbacks"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lightning.pytorch.callbacks"].__dict__["Callback"] = type("Callback", (), {})
    ours = ("apportion.client.huggingface", "apportion.client.lightning")
    for name in ours:
        sys.modules.pop(name, None)
    yield
    for name in ours:
        sys.modules.pop(name, None)


def callback(module: str) -> Any:
    """The integration's callback, as its framework would hold it."""
    return import_module(f"apportion.client.{module}").ApportionCallback()


class Model:
    """Calls its hooks before each forward."""

    def __init__(self) -> None:
        self.training = True
        self.hooks: list[Any] = []
        self.after: list[Any] = []

    def modules(self) -> list[Any]:
        return [module(parameter(7))]

    def register_forward_pre_hook(self, hook: Any, *, with_kwargs: bool) -> Any:
        assert with_kwargs
        self.hooks.append(hook)
        return SimpleNamespace(remove=self.hooks.clear)

    def register_forward_hook(self, hook: Any) -> Any:
        self.after.append(hook)
        return SimpleNamespace(remove=self.after.clear)

    def forward(self) -> None:
        for hook in self.hooks:
            hook(self, (), BATCH)
        for hook in self.after:
            hook(self, (), None)


def phases(directory: Path) -> list[str]:
    """The names of all phases, as they ended."""
    (ring,) = map(read, rings(directory))
    names = {number: name for name, number in layout.PHASES.items()}
    return [names[each["phase"]] for each in ring.records if each["phase"]]


def test_huggingface(frameworks: None, directory: Path) -> None:
    """Steps end to end, numbered on; what is evaluated and saved between them is taken out."""
    client.torch_steps()
    torch_hook = session.opener
    trainer, model = callback("huggingface"), Model()
    args, state = SimpleNamespace(torch_compile=False), SimpleNamespace(global_step=6)
    control = SimpleNamespace(should_evaluate=False, should_save=False)
    trainer.on_init_end(args, state, control, model=model)
    trainer.on_train_begin(args, state, control, model=model)
    assert session.opener is not torch_hook
    for _ in range(3):
        trainer.on_step_begin(args, state, control)
        model.forward()
        trainer.on_substep_end(args, state, control)
        model.forward()
        trainer.on_pre_optimizer_step(args, state, control)
        trainer.on_optimizer_step(args, state, control)
        state.global_step += 1
        control.should_evaluate = control.should_save = state.global_step == 8
        trainer.on_step_end(args, state, control)
        if control.should_evaluate:
            model.training = False
            model.forward()
            model.training = True
            trainer.on_evaluate(args, state, control)
            trainer.on_save(args, state, control)
    trainer.on_train_end(args, state, control)
    roots = [each for each in ended(directory) if each[0] != "phase"]
    assert [*steps(7, 8), ("evaluation", -1), ("checkpoint", 8), *steps(9)] == roots
    assert 3 * ["forward", "backward", "forward", "backward", "optimizer"] == phases(directory)
    assert [] == opened(directory) == model.hooks == model.after
    assert (6, {}) == (session.resumed_step, client.counts())
    (ring,) = map(read, rings(directory))
    assert 42 == ring.identity["flops_per_token"]


def test_lightning(frameworks: None, directory: Path) -> None:
    """A step is as many batches as the optimizer takes; a save in the middle of one is in it."""
    callback_ = callback("lightning")
    saved: list[str] = []
    trainer = SimpleNamespace(
        global_step=0,
        sanity_checking=True,
        save_checkpoint=saved.append,
        global_rank=1,
        world_size=2,
    )
    callback_.on_validation_start(trainer, None)
    callback_.on_validation_end(trainer, None)
    trainer.sanity_checking = False
    callback_.on_train_start(trainer, Model())
    for batch in range(4):
        callback_.on_train_batch_start(trainer, None, BATCH, batch)
        callback_.on_before_backward(trainer, None, None)
        callback_.on_after_backward(trainer, None)
        if batch % 2:
            callback_.on_before_optimizer_step(trainer, None, None)
        trainer.save_checkpoint("inside")
        trainer.global_step += batch % 2
        callback_.on_train_batch_end(trainer, None, None, BATCH, batch)
        if batch == 1:
            trainer.save_checkpoint("between")
            callback_.on_validation_start(trainer, None)
            callback_.on_validation_end(trainer, None)
    callback_.on_exception(trainer, None, ValueError())
    parts = ["forward", "backward", "checkpoint"]
    assert 2 * [*parts, *parts[:2], "checkpoint", "optimizer"] == phases(directory)
    roots = [each for each in ended(directory) if each[0] != "phase"]
    assert [*steps(1), ("checkpoint", 1), ("evaluation", -1), *steps(2, 3)] == roots
    assert 5 == len(saved)
    assert {} == client.counts()
    (ring,) = map(read, rings(directory))
    said = [ring.identity[key] for key in ("rank", "world_size", "flops_per_token")]
    assert [1, 2, 42] == said


def test_what_is_in_a_batch() -> None:
    """By shapes alone: a tensor's value is never looked at."""
    tensor = SimpleNamespace(shape=(3, 5))
    assert (3, 15) == (samples_in({"input_ids": tensor}), tokens_in({"input_ids": tensor}))
    assert (3, None) == (samples_in([[tensor], 4]), tokens_in([tensor]))
    things: list[object] = [None, 7, "text", [], {}, SimpleNamespace(shape=()), {"input_ids": [1]}]
    for nothing in things:
        assert samples_in(nothing) is None
        assert tokens_in(nothing) is None
