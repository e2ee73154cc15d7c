"""A GPU that is lost when the agent starts: only the ledger knows its name."""

from __future__ import annotations

from dataclasses import replace

from tests.agent.pipeline.world import DOLLARS, SECOND, World, rate

from apportion.agent.pipeline.device import GIVE_UP_NS
from apportion.agent.pipeline.processes import Processes
from apportion.agent.pipeline.readings import take_batch
from apportion.agent.pipeline.seen import Seen
from apportion.agent.pipeline.unread import in_place, of_source, unread
from apportion.collectors.collector import Batch, DeviceFailure, FailureKind
from apportion.collectors.observed import CollectorStatus
from apportion.core.category import Category
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_HOUR, MonotonicNs
from apportion.cost.audit import audit
from apportion.cost.rate import PriceTable

WELL = CollectorStatus("nvml", success=True)
PATIENCE_NS = 10 * SECOND
LOST = DeviceFailure(None, 1, "GPU 1: GPU is lost", FailureKind.LOST)


class Restarted:
    """An agent that metered two GPUs for a minute, was away for one, and has come back."""

    def __init__(self) -> None:
        self.world = World([rate(DOLLARS)], devices=2)
        self.world.run(60 * SECOND, utilization=0.0)
        self.world.clock.advance(60 * SECOND)
        self.world.boot_agent()
        self.seen = Seen(PriceTable())
        self.healthy, self.lost = self.world.infos

    def take(self, *infos: DeviceInfo, failures: tuple[DeviceFailure, ...] = ()) -> None:
        """A second in which these devices were read."""
        self.world.clock.advance(SECOND)
        now_ns = self.world.now_ns
        readings = tuple(Reading(info.device, MonotonicNs(now_ns)) for info in infos)
        settlement = self.world.settlement
        take_batch(
            Batch(readings, devices=infos, failures=failures),
            self.seen,
            settlement,
            lambda info, reading: settlement.read(info or self.healthy, reading),
            source="nvml",
            now_ns=now_ns,
        )

    def missing(self, status: CollectorStatus = WELL) -> dict[str, FailureKind]:
        """What is shown as not read, and why."""
        found = unread(
            self.world.settlement,
            self.seen,
            status,
            now_ns=self.world.node(self.world.now_ns),
            since_ns=self.world.now_ns - PATIENCE_NS,
            patience_ns=PATIENCE_NS,
        )
        return {each.info.device: each.failure.kind for each in found}


def test_a_lost_gpu_keeps_its_name_and_its_time_is_settled() -> None:
    """Its place says which it is: the alert goes on, and its time is paid by nobody's name."""
    agent = Restarted()
    assert agent.missing() == {}
    for second in range(60):
        agent.take(agent.healthy, failures=(LOST,))
        if second % 5 == 4:
            agent.world.tick()
    assert agent.missing() == {agent.lost.device: FailureKind.LOST}
    key = agent.world.device_keys([1])[0]
    parts = [row for row in agent.world.rows("settlement_part") if row["device_key"] == key]
    of_nobody = sum(
        row["device_ns"] for row in parts if row["category"] == int(Category.UNATTRIBUTED)
    )
    assert of_nobody >= 100 * SECOND
    assert audit(agent.world.ledger).holds
    agent.take(agent.healthy, agent.lost)
    assert agent.missing() == {}


def test_numbers_of_devices_do_not_shift_where_one_is_lost() -> None:
    """A trainer's device 1 is the second GPU, although the first does not answer."""
    agent = Restarted()
    agent.take(agent.lost, failures=(replace(LOST, index=0),))
    unread = in_place(agent.world.settlement, agent.seen)
    node = agent.seen.node(Processes(), numbered=True, unread=unread)
    assert node.devices == ["GPU-0", "GPU-1"]


def test_a_gpu_that_is_not_listed_has_vanished_until_it_is_given_up() -> None:
    """It fell off the bus before a boot; after a while it is taken for removed."""
    agent = Restarted()
    for _ in range(12):
        agent.take(agent.healthy)
    assert agent.missing() == {agent.lost.device: FailureKind.VANISHED}
    agent.world.clock.advance(GIVE_UP_NS)
    agent.take(agent.healthy)
    agent.world.tick()
    assert agent.missing() == {}


def test_a_gpu_that_was_replaced_is_not_missed() -> None:
    """After a repair another one is at its place, for this life of the agent and the next."""
    agent = Restarted()
    new = replace(agent.lost, device=DeviceId("GPU-new"))
    for second in range(12):
        agent.take(agent.healthy, new)
        if second % 5 == 4:
            agent.world.tick()
    assert agent.missing() == {}
    agent.world.boot_agent()
    agent.seen = Seen(PriceTable())
    agent.take(agent.healthy, failures=(LOST,))
    assert agent.missing() == {"GPU-new": FailureKind.LOST}


def test_where_the_source_fails_all_of_its_devices_do() -> None:
    """Not one GPU answers, and the CPU that was metered before there was a driver is none."""
    agent = Restarted()
    status = CollectorStatus("nvml", error="none of 2 GPUs answers", kind=FailureKind.LOST)
    everything = dict.fromkeys((info.device for info in agent.world.infos), FailureKind.LOST)
    assert agent.missing(status) == everything
    agent.world.clock.advance(NS_PER_HOUR)
    agent.world.tick()
    assert agent.missing(status) == everything
    assert agent.missing(replace(status, name="host")) == {}


def test_to_let_go_of_the_gpus_makes_no_lost_one_well() -> None:
    """A page of a lost GPU is not taken back while a person resets it."""
    released = CollectorStatus("nvml", error="released", kind=FailureKind.RELEASED)
    info = DeviceInfo(DeviceId("GPU-1"), "H100", 1, "nvml")
    assert of_source(released, info, None).kind is FailureKind.RELEASED
    assert of_source(released, info, LOST).kind is FailureKind.LOST
    hanging = replace(released, kind=FailureKind.HANGING)
    assert of_source(hanging, info, LOST).kind is FailureKind.HANGING
