"""A real Hugging Face Trainer and a real Lightning, on the CPU, interrupted and resumed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.client.decoded import Decoded, read, rings

from apportion.client import layout

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="only `make test-trainers` installs them"
)

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both left behind: two trainings each; the second one goes on from the third step."""
    folder = tmp_path_factory.mktemp("trainers")
    command = [sys.executable, "-c", PROGRAM, str(folder), "huggingface", "lightning"]
    done = subprocess.run(command, timeout=200, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def ring_of(folder: Path, workload: str) -> Decoded:
    """The ring of one training."""
    found = [read(path) for path in rings(folder)]
    (ring,) = (ring for ring in found if ring.identity["workload"] == workload)
    return ring


def of_kind(ring: Decoded, kind: str) -> list[dict[str, Any]]:
    """Root spans that took time."""
    return [
        each
        for each in ring.records
        if each["kind"] == layout.KINDS[kind] and each["end_ns"] > each["start_ns"]
    ]


# Seven samples of eight tokens in batches of two, two batches to a step. Lightning reads its loader
# from the beginning again.
@pytest.mark.parametrize(
    ("training", "first", "samples"),
    [
        ("hf", 1, [4, 3, 4, 3]),
        ("hf-resumed", 4, [3, 4]),
        ("pl", 1, [4, 3, 4, 3]),
        ("pl-resumed", 4, [4, 4]),
    ],
)
def test_steps_tokens_and_samples(
    folder: Path, training: str, first: int, samples: list[int]
) -> None:
    """Numbers are the trainer's; tokens, samples and micro-batches are those it was given."""
    ring = ring_of(folder, training)
    steps = of_kind(ring, "step")
    assert list(range(first, first + len(samples))) == [each["step"] for each in steps]
    assert {layout.STATUSES["ok"]} == {each["status"] for each in steps}
    assert samples == [each["samples"] for each in steps]
    assert [8 * count for count in samples] == [each["tokens"] for each in steps]
    assert {2} == {each["micro_batches"] for each in steps}
    assert [] == ring.open_slots


@pytest.mark.parametrize("trainer", ["hf", "pl"])
def test_evaluations_and_saves(folder: Path, trainer: str) -> None:
    """They are spans of their own, between steps; a save says which step is in it."""
    ring = ring_of(folder, trainer)
    asides = of_kind(ring, "evaluation") + of_kind(ring, "checkpoint")
    assert len(of_kind(ring, "evaluation")) >= 2
    assert 3 in [each["step"] for each in of_kind(ring, "checkpoint")]
    roots = sorted([*of_kind(ring, "step"), *asides], key=lambda each: int(each["start_ns"]))
    for earlier, later in pairwise(roots):
        assert earlier["end_ns"] <= later["start_ns"]


@pytest.mark.parametrize("trainer", ["hf", "pl"])
def test_what_it_resumed_from(folder: Path, trainer: str) -> None:
    """The checkpoint's step is in the ring, so that what is done again is known as such."""
    assert 3 == ring_of(folder, f"{trainer}-resumed").header["resumed_step"]
    assert 0 == ring_of(folder, trainer).header["resumed_ns"]
