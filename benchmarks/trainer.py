"""A trainer that apportion may measure or not: PyTorch's real work, in one thread."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import thread_time_ns
from typing import Any, NamedTuple

from apportion import client


class Size(NamedTuple):
    """A model and its batch."""

    layers: int
    width: int
    sequences: int
    tokens: int


EXAMPLE = Size(5, 128, 4, 64)
SHORT = Size(1, 32, 1, 16)


class Training:
    """One model in training."""

    def __init__(self, size: Size) -> None:
        torch: Any = importlib.import_module("torch")  # only the measuring process has them
        gpt: Any = importlib.import_module("gpt")
        torch.manual_seed(1)
        torch.set_num_threads(1)
        shape = gpt.Shape(layers=size.layers, width=size.width, context=size.tokens)
        self._model = gpt.Gpt(shape)
        self.optimizer = torch.optim.AdamW(self._model.parameters(), lr=0.0)
        self._batch = torch.randint(shape.vocabulary, (size.sequences, size.tokens + 1))
        self._tokens = size.sequences * size.tokens
        self._number = 0

    def step(self) -> None:
        self._model.loss(self._batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step_with_phases(self) -> None:
        self._number += 1
        with client.step(self._number) as step:
            with step.phase("forward"):
                loss = self._model.loss(self._batch)
            with step.phase("backward"):
                loss.backward()
            with step.phase("optimizer"):
                self.optimizer.step()
                self.optimizer.zero_grad()
            step.add(tokens=self._tokens)

    def timed_step_with_phases(self) -> int:
        """The same; the nanoseconds of CPU that the client took of it."""
        self._number += 1
        watch = Watch()
        with watch(lambda: client.step(self._number)) as step:
            with watch(lambda: step.phase("forward")):
                loss = self._model.loss(self._batch)
            with watch(lambda: step.phase("backward")):
                loss.backward()
            with watch(lambda: step.phase("optimizer")):
                self.optimizer.step()
                self.optimizer.zero_grad()
            begin_ns = thread_time_ns()
            step.add(tokens=self._tokens)
            watch.took_ns += thread_time_ns() - begin_ns
        return watch.took_ns


class Watch:
    """Adds up the CPU time that making, entering and leaving contexts takes, not what is within."""

    def __init__(self) -> None:
        self.took_ns = 0

    @contextmanager
    def __call__(self, make: Callable[[], Any]) -> Generator[Any]:
        begin_ns = thread_time_ns()
        context = make()
        entered = context.__enter__()
        self.took_ns += thread_time_ns() - begin_ns
        yield entered
        begin_ns = thread_time_ns()
        context.__exit__(None, None, None)
        self.took_ns += thread_time_ns() - begin_ns


class Hooks:
    """The client's among PyTorch's hooks for all optimizers, which can be taken out."""

    def __init__(self) -> None:
        module: Any = importlib.import_module("torch.optim.optimizer")
        client.torch_steps().stop()
        # There is no public way to have a hook, and not to have it, and to have it again.
        self._places: list[dict[int, Any]] = [
            module._global_optimizer_pre_hooks,  # noqa: SLF001 - as said
            module._global_optimizer_post_hooks,  # noqa: SLF001 - as said
        ]
        self._hooks = [dict(place) for place in self._places]
        self.take_out()

    def put_in(self) -> None:
        for place, hooks in zip(self._places, self._hooks, strict=True):
            place.update(hooks)

    def take_out(self) -> None:
        for place in self._places:
            place.clear()

    @contextmanager
    def timed(self, took_ns: list[int]) -> Generator[None]:
        """In place, with how long both hooks of each step took of the thread's CPU time."""

        def before(*arguments: Any) -> None:
            begin_ns = thread_time_ns()
            hook_before(*arguments)
            took_ns.append(thread_time_ns() - begin_ns)

        def after(*arguments: Any) -> None:
            begin_ns = thread_time_ns()
            hook_after(*arguments)
            took_ns[-1] += thread_time_ns() - begin_ns

        (first, hook_before), (second, hook_after) = (
            next(iter(hooks.items())) for hooks in self._hooks
        )
        self._places[0][first], self._places[1][second] = before, after
        with client.torch_steps():
            yield
        self.take_out()

    def alone(self, optimizer: object) -> Callable[[], None]:
        """Both hooks of one step, without the step."""
        hooks = [hook for place in self._hooks for hook in place.values()]

        def call() -> None:
            for hook in hooks:
                hook(optimizer, (), {})

        return call
