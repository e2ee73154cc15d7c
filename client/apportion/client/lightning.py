"""Steps of PyTorch Lightning, by a callback.

    from apportion.client.lightning import ApportionCallback

    Trainer(..., callbacks=[ApportionCallback()])

Nothing here gathers, synchronises or reads a tensor.
"""
# ruff: noqa: ARG002 - the trainer says more than is needed

from __future__ import annotations

import functools
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from apportion.client.batches import samples_in, tokens_in
from apportion.client.counting import count
from apportion.client.model_size import flops_per_token
from apportion.client.opened_steps import OpenedSteps
from apportion.client.session import declare, resumed
from apportion.client.span import Span
from apportion.client.training import checkpoint, evaluation

_PACKAGES: Final = {
    "lightning": "lightning.pytorch.callbacks",
    "pytorch_lightning": "pytorch_lightning.callbacks",
}
"""Its two distributions, whose callbacks are not each other's."""

if TYPE_CHECKING:
    Callback = object
else:
    _used = [name for name in _PACKAGES if name in sys.modules] or list(_PACKAGES)
    try:
        Callback = import_module(_PACKAGES[_used[0]]).Callback
    except ModuleNotFoundError:
        Callback = import_module(_PACKAGES[_used[-1]]).Callback


class ApportionCallback(Callback):
    """Each optimizer step is a step, numbered by the trainer; validation and saves are their own.

    A step begins where the last one ended, so that loading its data is part of it. Samples and
    tokens (of batches with `input_ids`) are this rank's, padding included.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps = OpenedSteps()
        self._aside: Span | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Training begins, or goes on from a checkpoint."""
        if trainer.global_step:
            resumed(trainer.global_step)
        self._steps.start()
        # Its own launchers name neither in the environment.
        whose: dict[str, int] = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        declare(flops_per_token=flops_per_token(pl_module), **whose)
        self._steps.last = trainer.global_step
        _measure_saves(trainer)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """A micro-batch is there. Only the first step has not begun yet."""
        self._steps.open()
        step = self._steps.span
        if step is not None:
            try:
                step.add(samples=samples_in(batch), tokens=tokens_in(batch), micro_batches=1)
            except Exception:  # noqa: BLE001 - an observer never raises into the workload
                count("internal_error")
            self._steps.begin_phase("forward")

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """The loss is known."""
        self._steps.begin_phase("backward")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """So are the gradients."""
        self._steps.end_phase()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """They are whole, over all micro-batches and ranks."""
        self._steps.begin_phase("optimizer")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The micro-batch is done; the step is, if the optimizer has stepped."""
        self._steps.end_phase()
        if trainer.global_step != self._steps.last:
            self._steps.number(trainer.global_step)
            self._steps.end_step()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """An evaluation begins; the sanity check before training is startup."""
        if self._steps.on and not trainer.sanity_checking:
            self._aside = evaluation().start()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """It is over."""
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.finish()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """What comes now is no step."""
        self._steps.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The step at hand failed."""
        self._steps.fail(type(exception))


def _measure_saves(trainer: Any) -> None:
    """Have this trainer's saves say that they are some: no callback is told when one ends."""
    save = trainer.save_checkpoint
    if hasattr(save, "__wrapped__"):
        return

    @functools.wraps(save)
    def measured(*args: Any, **kwargs: Any) -> Any:
        with checkpoint(trainer.global_step):
            return save(*args, **kwargs)

    trainer.save_checkpoint = measured
