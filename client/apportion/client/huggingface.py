"""Steps of Hugging Face's Trainer, by a callback.

    from apportion.client.huggingface import ApportionCallback

    Trainer(..., callbacks=[ApportionCallback()])

Nothing here gathers, synchronises or reads a tensor.
"""
# ruff: noqa: ARG002 - the trainer calls by keyword, and says more than is needed

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from apportion.client.batches import samples_in, tokens_in
from apportion.client.counting import count
from apportion.client.model_size import flops_per_token
from apportion.client.opened_steps import OpenedSteps
from apportion.client.session import declare, resumed
from apportion.client.span import Span
from apportion.client.training import checkpoint, evaluation

if TYPE_CHECKING:
    TrainerCallback = object
else:
    TrainerCallback = import_module("transformers").TrainerCallback


class ApportionCallback(TrainerCallback):
    """Each optimizer step is a step, numbered by the trainer; evaluations and saves are their own.

    A step begins where the last one ended, so that loading its data is part of it. Samples and
    tokens are those that this rank's model was given, padding included. A compiled model has no
    counts, and no phase but the optimizer's: a hook in it would be compiled with it.
    """

    def __init__(self) -> None:
        self._steps = OpenedSteps()
        self._aside: Span | None = None
        self._hooks: list[Any] = []
        """Of the model."""
        self._flops_per_token: int | None = None
        """Of the model when it was whole."""

    def on_init_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **others: Any
    ) -> None:
        """The model is there, and whole: FSDP leaves each rank a part of it."""
        self._flops_per_token = flops_per_token(model)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **others: Any
    ) -> None:
        """Training begins, or goes on from a checkpoint."""
        if state.global_step:
            resumed(state.global_step)
        self._steps.start()
        declare(flops_per_token=flops_per_token(model) or self._flops_per_token)
        compiled = args.torch_compile or getattr(model, "_compiled_call_impl", None) is not None
        if model is not None and not self._hooks and not compiled:
            self._hooks = [
                model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
                model.register_forward_hook(self._after_forward),
            ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Its data is there. Only the first step has not begun yet."""
        self._steps.last = state.global_step
        self._steps.open()

    def on_substep_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """A micro-batch is done, and not the last one of its step."""
        self._steps.end_phase()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """The gradients are whole, over all micro-batches and ranks."""
        self._steps.begin_phase("optimizer")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """They have been applied."""
        self._steps.end_phase()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """The optimizer has stepped."""
        self._steps.number(state.global_step)
        self._steps.end_step()
        self._go_aside(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """What is done once an epoch begins now."""
        self._go_aside(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """It is evaluated; it may be saved now."""
        if self._come_back():
            self._go_aside(state, control, evaluated=True)

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """It is saved."""
        self._come_back()

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """What comes now is no step."""
        self._come_back()
        self._steps.stop()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _go_aside(self, state: Any, control: Any, *, evaluated: bool = False) -> None:
        if control.should_evaluate and not evaluated:
            self._aside = evaluation().start()
        elif control.should_save:
            self._aside = checkpoint(state.global_step).start()

    def _come_back(self) -> bool:
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.finish()
        return aside is not None

    def _before_forward(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step = self._steps.span
        if step is None or not model.training:
            return
        try:
            step.add(
                samples=samples_in(kwargs or args),
                tokens=tokens_in(kwargs),
                micro_batches=1,
            )
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        self._steps.begin_phase("forward")

    def _after_forward(self, model: Any, args: object, output: object) -> None:
        """What comes now is the backward pass, and little else."""
        if model.training:
            self._steps.begin_phase("backward")
