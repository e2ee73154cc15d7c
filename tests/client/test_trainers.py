"""A real Hugging Face Trainer and a real Lightning, on the CPU, interrupted and resumed."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.client.decoded import Decoded, read, rings

from apportion.client import layout

PROGRAM = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from apportion import client

folder = Path(sys.argv[1])
client.torch_steps()  # from which the callbacks take over
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Embedding(16, 1)
    def forward(self, input_ids, labels=None):
        loss = self.weights(input_ids).square().mean()
        return {"loss": loss, "logits": torch.zeros(len(input_ids), 1)}

data = [{"input_ids": torch.arange(8), "labels": torch.tensor(0)} for _ in range(7)]


def huggingface():
    from transformers import Trainer, TrainingArguments
    from apportion.client.huggingface import ApportionCallback

    def trainer(steps):
        arguments = TrainingArguments(
            str(folder / "hf"), max_steps=steps, per_device_train_batch_size=2,
            gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=2,
            save_strategy="steps", save_steps=3, report_to=[], use_cpu=True, disable_tqdm=True,
            logging_strategy="no", save_safetensors=False,
        ) if False else TrainingArguments(
            str(folder / "hf"), max_steps=steps, per_device_train_batch_size=2,
            gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=2,
            save_strategy="steps", save_steps=3, report_to=[], use_cpu=True, disable_tqdm=True,
            logging_strategy="no",
        )
        return Trainer(Model(), arguments, train_dataset=data, eval_dataset=data,
                       callbacks=[ApportionCallback()])

    client.init(workload="hf", directory=folder, run="hf")
    trainer(4).train()
    client.init(workload="hf-resumed", directory=folder, run="hf")
    trainer(5).train(resume_from_checkpoint=str(folder / "hf" / "checkpoint-3"))


def lightning():
    import lightning.pytorch as pl
    from apportion.client.lightning import ApportionCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model()
        def training_step(self, batch, index):
            return self.model(**batch)["loss"]
        def validation_step(self, batch, index):
            pass
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(steps, checkpoint=None):
        loader = torch.utils.data.DataLoader(data, batch_size=2)
        trainer = pl.Trainer(
            max_steps=steps, accumulate_grad_batches=2, val_check_interval=2, accelerator="cpu",
            logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder / "pl", callbacks=[
                ApportionCallback(),
                pl.callbacks.ModelCheckpoint(
                    folder / "pl", filename="{step}", every_n_train_steps=3, save_top_k=-1),
            ],
        )
        trainer.fit(Module(), loader, loader, ckpt_path=checkpoint)

    client.init(workload="pl", directory=folder, run="pl")
    fit(4)
    client.init(workload="pl-resumed", directory=folder, run="pl")
    fit(5, folder / "pl" / "step=3.ckpt")

for work in sys.argv[2:]:
    globals()[work]()
assert client.counts() == {}, client.counts()
"""
