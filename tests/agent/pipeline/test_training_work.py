"""MFU of trainers: what they say of their model, their steps' tokens, and their devices' peak."""

from __future__ import annotations

import pytest
from tests.agent.pipeline.world import DOLLARS, H100, SECOND, World, rate

from apportion.agent.ingest.identity import Identity, parse_identity
from apportion.agent.snapshot import TrainingKey
from apportion.core.category import SpanKind, SpanStatus
from apportion.core.ids import RunId

PRICE = rate(3600 * DOLLARS)
PEAK = 989 * 10**12
"""Of an H100, dense, 16 bits."""
SAID = Identity(run=RunId("run-1"), flops_per_token=6 * 8 * 10**9)


def trained(world: World, said: Identity, *, tokens: int = 1_000, lost: bool = False) -> None:
    """Two steps of four seconds, by two ranks on a device each."""
    ranks = [
        world.process(f"rank-{at}", [at], run="train", said=said) for at in range(len(world.infos))
    ]
    world.read_all(0.5)
    for number in (1, 2):
        steps = [
            rank.start(SpanKind.STEP, world.now_ns, step=number, trained=tokens) for rank in ranks
        ]
        world.run(4 * SECOND, utilization=0.5)
        for rank, step in zip(ranks, steps, strict=True):
            step.status = SpanStatus.ERROR if lost and number == 2 else SpanStatus.OK
            rank.finish(step, world.now_ns)
    world.settle()


def test_all_ranks_count_by_their_own_tokens_and_devices() -> None:
    """Sums of whole steps: operations of every token, over what each device could have done."""
    world = World([PRICE], devices=2)
    trained(world, SAID)
    ((key, work),) = world.settlement.totals.training.items()
    assert key == TrainingKey("train", "run-1")
    assert work.flops == 4 * 1_000 * 48 * 10**9
    assert work.possible == 4 * 4 * PEAK


def test_after_a_restart_of_the_agent_it_is_still_known() -> None:
    """The process says it once, in its ring; the ledger keeps it."""
    world = World([PRICE])
    trained(world, SAID)
    world.boot_agent()
    step = world.processes["rank-0"].start(SpanKind.STEP, world.now_ns, step=3, trained=10)
    world.run(2 * SECOND, utilization=0.5)
    world.processes["rank-0"].finish(step, world.now_ns)
    world.settle()
    (work,) = world.settlement.totals.training.values()
    assert work.flops == 10 * 48 * 10**9


@pytest.mark.parametrize(
    ("name", "said", "tokens"),
    [
        ("NVIDIA Unheard-of", SAID, 1_000),
        (f"{H100} MIG 1g.10gb", SAID, 1_000),
        (H100, Identity(), 1_000),
        (H100, SAID, -1),
    ],
)
def test_what_is_not_known_is_absent(name: str, said: Identity, tokens: int) -> None:
    """Another device, a trainer that says nothing, steps without tokens: no figure, and not 0."""
    world = World([PRICE], device_name=name)
    trained(world, said, tokens=tokens)
    assert world.settlement.totals.training == {}


def test_steps_that_failed_do_not_count() -> None:
    """Neither their tokens nor their time."""
    world = World([PRICE])
    trained(world, SAID, lost=True)
    (work,) = world.settlement.totals.training.values()
    assert (work.flops, work.possible) == (1_000 * 48 * 10**9, 4 * PEAK)


def test_what_a_hostile_ring_says() -> None:
    """A number that is none, or beyond all models, is ignored and counted."""
    for text in (
        b'{"flops_per_token": -1}',
        b'{"flops_per_token": 1e300}',
        b'{"flops_per_token": true}',
    ):
        found = parse_identity(text)
        assert (found.flops_per_token, found.ignored) == (None, 1)
