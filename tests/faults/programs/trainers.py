"""A real Hugging Face Trainer and a real Lightning: each of two ranks, interrupted and resumed.

trainers.py FOLDER

Importing them is most of what they cost, so ranks are forked behind that, as notebooks do it. The
environment is a JobSet's: its name is the run, its restarts are the attempts.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedBaseClass=false, reportUnknownParameterType=false
# They are not among what the types are checked with.

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import lightning.pytorch as pl  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from torch import distributed  # noqa: E402
from torch.multiprocessing.spawn import start_processes  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402

from apportion import client  # noqa: E402
from apportion.client import huggingface, lightning  # noqa: E402

FOLDER = Path(sys.argv[1])
RANKS, SAVED, FIRST_LAST, LAST = 2, 3, 4, 5
TOKENS = 8
DATA: Any = [
    {"input_ids": torch.arange(TOKENS), "labels": torch.zeros(TOKENS, dtype=torch.long)}
    for _ in range(12)
]
"""Three micro-batches of two for each rank: a step of two of them, and a step of the last one."""


class Model(torch.nn.Module):
    """A table of 16 x 4, which takes no operation, and a layer of 4 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(16, 4)
        self.head = torch.nn.Linear(4, 16, bias=False)

    def forward(self, input_ids: Any, labels: Any = None) -> dict[str, Any]:
        """As Hugging Face's models do."""
        logits = self.head(self.table(input_ids))
        return {"loss": logits.square().mean(), "logits": logits}


def train_huggingface(rank: int, last: int, checkpoint: str | None) -> None:
    """One rank, with the environment that torchrun gives."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0")  # nobody meets there
    meeting = f"file://{FOLDER}/meeting-{os.environ['JOBSET_RESTART_ATTEMPT']}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS)
    arguments = TrainingArguments(
        str(FOLDER / "huggingface"),
        max_steps=last,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=SAVED,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    callbacks = [huggingface.ApportionCallback()]
    trainer = Trainer(
        Model(), arguments, train_dataset=DATA, eval_dataset=DATA, callbacks=callbacks
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    assert client.counts() == {}, client.counts()
    distributed.destroy_process_group()


class Module(pl.LightningModule):  # type: ignore[misc] # it has no types here
    """The same model as Lightning wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def training_step(self, batch: Any, index: int) -> Any:
        """Its loss."""
        return self.model(**batch)["loss"]

    def validation_step(self, batch: Any, index: int) -> None:
        """That it is one is enough."""

    def configure_optimizers(self) -> Any:
        """One that keeps no state."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_end(self) -> None:
        """In each rank."""
        assert client.counts() == {}, client.counts()


def train_lightning(last: int, checkpoint: Path | None) -> None:
    """Its own launcher forks the ranks, and gives them no RANK."""
    saves = ModelCheckpoint(
        FOLDER / "lightning", filename="{step}", every_n_train_steps=SAVED, save_top_k=-1
    )
    trainer = pl.Trainer(
        max_steps=last,
        accumulate_grad_batches=2,
        val_check_interval=1,
        accelerator="cpu",
        devices=RANKS,
        strategy="ddp_fork",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=FOLDER / "lightning",
        callbacks=[lightning.ApportionCallback(), saves],
    )
    loader = torch.utils.data.DataLoader(DATA, batch_size=2)
    trainer.fit(Module(), loader, loader, ckpt_path=checkpoint)


client.torch_steps()  # from which the callbacks take over
for name in ("huggingface", "lightning"):
    for attempt, until in enumerate((FIRST_LAST, LAST)):
        os.environ["JOBSET_NAME"] = f"{name}-7"
        os.environ["JOBSET_RESTART_ATTEMPT"] = str(attempt)
        client.init(workload=name)
        if name == "lightning":
            train_lightning(until, FOLDER / name / f"step={SAVED}.ckpt" if attempt else None)
        else:
            saved = str(FOLDER / name / f"checkpoint-{SAVED}") if attempt else None
            start_processes(train_huggingface, (until, saved), RANKS, start_method="fork")
