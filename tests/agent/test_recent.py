"""Gauges of the last minutes: what two looks at the counters differ by, and nothing made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from apportion.agent.recent import LOOK_NS, WINDOW_NS, Recent
from apportion.agent.snapshot import (
    LostKey,
    Spend,
    SpendKey,
    StepKey,
    TokenKey,
    TrainingKey,
    TrainingWork,
)
from apportion.core.category import Category, SpanStatus
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND

S = NS_PER_SECOND
DOLLAR = 10**12
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
CHAT = SpendKey(Category.DIRECT, "chat", model="m", tenant="a")
TRAIN = SpendKey(Category.DIRECT, "train", run="run-1")
GAPS = SpendKey(Category.BETWEEN_STEPS, "train", run="run-1")
IDLE = SpendKey(Category.UNALLOCATED)
FLOP = ("engine_estimated_flops_total", (("target", "t"), ("engine", "vllm"), ("model", "m")))


class Counters:
    """Counters that a test turns up, and what is made of them."""

    def __init__(self, *devices: str) -> None:
        self.recent, self.now_ns = Recent(), 10**15
        self.spend: dict[SpendKey, Spend] = {}
        self.lost: dict[LostKey, Spend] = {}
        self.tokens: dict[TokenKey, int] = {}
        self.steps: dict[StepKey, int] = {}
        self.training: dict[TrainingKey, TrainingWork] = {}
        self.open: dict[tuple[str, str], int] = {}
        self.collected: list[Sample] = []
        self.devices = [
            DeviceInfo(DeviceId(f"GPU-{at}"), name, at, "nvml") for at, name in enumerate(devices)
        ]

    def look(self, after_ns: int = LOOK_NS) -> Mapping[tuple[str, ...], float]:
        """Figures by family, then by labels' values."""
        self.now_ns += after_ns
        found = self.recent.samples(
            self.now_ns,
            spend=self.spend,
            lost=self.lost,
            tokens=self.tokens,
            steps=self.steps,
            training=self.training,
            open_requests=self.open,
            collected=self.collected,
            devices=self.devices,
        )
        return {(each.name, *(text for _, text in each.labels)): each.value for each in found}


def test_money_over_tokens_and_steps() -> None:
    """Cached input counts once, steps that failed do not, and earlier money is not in it."""
    seen = Counters()
    seen.spend = {CHAT: Spend(S, 5 * DOLLAR), TRAIN: Spend(S, DOLLAR)}
    seen.tokens = {TokenKey("chat", "a", "m", "input"): 1_000}
    assert seen.look() == {
        ("goodput_ratio", "train", "run-1"): 1.0,
    }
    seen.spend = {CHAT: Spend(2 * S, 7 * DOLLAR), TRAIN: Spend(2 * S, 4 * DOLLAR)}
    seen.tokens = {
        TokenKey("chat", "a", "m", "input"): 400_000 + 1_000,
        TokenKey("chat", "a", "m", "cached_input"): 300_000,
        TokenKey("chat", "a", "m", "output"): 600_000,
    }
    seen.steps = {
        StepKey("train", "run-1", SpanStatus.OK): 6,
        StepKey("train", "run-1", SpanStatus.LOST): 3,
    }
    found = seen.look()
    assert found["cost_{currency}_per_million_tokens", "chat", "a", "m"] == 2.0
    assert found["cost_{currency}_per_step", "train", "run-1"] == 0.5
    assert found["idle_ratio",] == 0.0


def test_what_a_token_costs_whoever_asks() -> None:
    """For estimates: tenants of a model together; nothing where there was no token or no price."""
    seen = Counters()
    other = replace(CHAT, tenant="b")
    seen.spend = {CHAT: Spend(S, 5 * DOLLAR)}
    assert seen.recent.cost_per_token() == {}
    seen.look()
    assert seen.recent.cost_per_token() == {}
    seen.spend = {
        CHAT: Spend(2 * S, 7 * DOLLAR),
        other: Spend(S, DOLLAR),
        replace(CHAT, model="free"): Spend(S, None),
    }
    seen.tokens = {
        TokenKey("chat", "a", "m", "input"): 1_000,
        TokenKey("chat", "a", "m", "cached_input"): 500,
        TokenKey("chat", "b", "m", "output"): 2_000,
        TokenKey("chat", "a", "free", "output"): 1_000,
    }
    seen.look()
    assert seen.recent.cost_per_token() == {("chat", "m"): 3 / 3_000}


def test_without_a_price_there_is_no_cost() -> None:
    """Tokens of unpriced devices cost nobody knows what: no figure, and not 0."""
    seen = Counters()
    seen.look()
    seen.spend = {CHAT: Spend(S)}
    seen.tokens = {TokenKey("chat", "a", "m", "output"): 5}
    assert not [key for key in seen.look() if "currency" in key[0]]


def test_the_window_moves_on() -> None:
    """What is longer ago than the window does not count."""
    seen = Counters()
    seen.look()
    seen.spend = {IDLE: Spend(30 * S)}
    assert seen.look()["idle_ratio",] == 1.0
    for worked in range(2 * WINDOW_NS // LOOK_NS):
        seen.spend = {**seen.spend, TRAIN: Spend(worked * S)}
        seen.look()
    seen.spend[TRAIN] = Spend(10 * WINDOW_NS)
    assert seen.look()["idle_ratio",] == 0.0


def test_goodput_is_less_what_was_lost() -> None:
    """Rolled-back steps are inside no step that was kept; a lost wait was never inside one."""
    seen = Counters()
    seen.spend = {TRAIN: Spend(80 * S), GAPS: Spend(20 * S)}
    assert seen.look()["goodput_ratio", "train", "run-1"] == 0.8
    seen.lost = {
        LostKey("train", "run-1", Category.DIRECT, "rolled_back"): Spend(30 * S),
        LostKey("train", "run-1", Category.BETWEEN_STEPS, "hang"): Spend(20 * S),
    }
    assert seen.look()["goodput_ratio", "train", "run-1"] == 0.5


def test_series_that_end_take_nothing_away() -> None:
    """A pod whose series end, or a workload, changes no figure of what goes on."""
    seen = Counters()
    old = replace(TRAIN, namespace="ml", pod="train-0")
    seen.spend = {old: Spend(900 * S, 9 * DOLLAR), IDLE: Spend(100 * S), TRAIN: Spend(0, 0)}
    seen.steps = {StepKey("train", "run-1", SpanStatus.OK): 1}
    seen.lost = {LostKey("train", "run-1", Category.DIRECT, "rolled_back"): Spend(90 * S)}
    assert seen.look()["goodput_ratio", "train", "run-1"] == 0.9
    seen.spend = {IDLE: Spend(110 * S), TRAIN: Spend(30 * S, 3 * DOLLAR)}
    seen.steps = {StepKey("train", "run-1", SpanStatus.OK): 3}
    found = seen.look()
    assert found["idle_ratio",] == 0.25
    assert found["cost_{currency}_per_step", "train", "run-1"] == 1.5
    assert found["goodput_ratio", "train", "run-1"] == 840 / 930
    seen.spend = {IDLE: Spend(120 * S)}
    assert not [key for key in seen.look() if key[0] == "goodput_ratio"]


def test_mfu_of_what_was_trained_lately() -> None:
    """What was done over what was possible, of the last minutes only."""
    seen = Counters()
    run = TrainingKey("train", "run-1")
    seen.training = {run: TrainingWork(900, 1_000)}
    seen.look()
    assert not [key for key in seen.look() if key[0] == "training_mfu_ratio"]
    seen.training = {run: TrainingWork(1_300, 2_000)}
    assert seen.look()["training_mfu_ratio", "train", "run-1", "declared"] == 0.4


def test_a_batch_is_what_runs_at_once_while_anything_runs() -> None:
    """Looks at which nothing ran do not make it smaller."""
    seen = Counters()
    seen.look()
    for count in (4, 0, 0, 2):
        seen.open = {("chat", "m"): count}
        seen.look(S)
    assert seen.look()["batch_size", "chat", "m"] == 3 - 1 / 3  # the last look saw 2 again


def test_mfu_is_the_engines_estimate_over_the_devices_peak() -> None:
    """An H100 does 989 TFLOP/s: half of that for a look's time is 0.5, whatever was before."""
    seen = Counters(H100, H100)
    seen.collected = [Sample(FLOP[0], 7e20, FLOP[1])]
    assert not seen.look()
    half = 989e12 / 2 * LOOK_NS / S
    seen.collected = [Sample(FLOP[0], 7e20 + half, FLOP[1])]
    found = seen.look()
    assert abs(found["engine_mfu_ratio", "t", "vllm", "m", "engine_estimate"] - 0.5) < 1e-6


def test_mfu_is_unknown_where_it_would_be_a_guess() -> None:
    """Of an engine that started anew, of devices that differ, and of those without known peak."""
    for names in ((H100,), (H100, A100), ("NVIDIA Unknown",), ()):
        seen = Counters(*names)
        seen.collected = [Sample(FLOP[0], 7e20, FLOP[1])]
        seen.look()
        seen.collected = [Sample(FLOP[0], 5.0, FLOP[1])]
        assert not seen.look()
        seen.collected = []
        assert not seen.look()
