"""What the fault tests of GPUs look at: each GPU's series and its time in the ledger."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tests.faults.node import Agent, Node

from apportion.core.category import Category
from apportion.simulator import Simulator

Labels = frozenset[tuple[str, str]]


class Look:
    """One answer of /metrics, by name and labels."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._values.setdefault(sample.name, []).append((sample.labels, sample.value))

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples with these labels; None where there is none."""
        found = [
            value
            for known, value in self._values.get(f"apportion_{name}", ())
            if labels.items() <= known.items()
        ]
        return sum(found) if found else None

    def failure(self, device: str) -> str:
        """Why a device cannot be read, in a word; empty where it can."""
        for labels, _ in self._values.get("apportion_device_failure", ()):
            if labels["device"] == device:
                return labels["reason"]
        return ""

    def devices(self) -> set[str]:
        """The devices that are shown."""
        return {labels["device"] for labels, _ in self._values.get("apportion_device_up", ())}

    def is_up(self, device: str) -> bool:
        """Is it being read?"""
        return self.value("device_up", device=device) == 1

    def energy(self, device: str) -> float:
        """Its energy so far."""
        return self.value("device_energy_joules_total", device=device) or 0.0


class Gpus:
    """A node's GPUs and the agent that meters them."""

    def __init__(self, node: Node, agent: Agent) -> None:
        self.node, self.agent, self.simulator = node, agent, node.simulator
        self.ids = node.simulator.uuids

    def look(self) -> Look:
        """/metrics as it is now."""
        return Look(self.agent.door.text())

    def reason(self, index: int) -> str:
        """Why a GPU cannot be read, in a word; empty where it can."""
        return self.look().failure(self.ids[index])

    def until_read(self, *indexes: int) -> None:
        """Wait until these GPUs, or all, are read and shown."""
        wanted = [self.ids[index] for index in indexes or range(len(self.ids))]

        def read() -> bool:
            look = self.look()
            return all(look.is_up(device) for device in wanted)

        self.agent.eventually(read, f"GPUs {indexes or 'all'} are read")

    def until_flowing(self, *indexes: int, looks: int = 2) -> None:
        """Wait until the series of these GPUs have moved on, so many times."""
        wanted = [self.ids[index] for index in indexes]
        for _ in range(looks):
            before = self.look()

            def moved(before: Look = before) -> bool:
                now = self.look()
                return all(now.is_up(d) and now.energy(d) > before.energy(d) for d in wanted)

            self.agent.eventually(moved, f"the series of GPUs {indexes} go on")

    def until_failing(self, index: int, reason: str = "") -> str:
        """Wait until a GPU is said to fail, for this reason; the sentence of /readyz."""

        def failing() -> str:
            said = self.look().failure(self.ids[index])
            if not said or reason not in {"", said}:
                return ""
            lines = self.agent.door.says().splitlines()
            return next((line for line in lines if f"device {self.ids[index]} cannot" in line), "")

        return self.agent.eventually(failing, f"GPU {index} fails: {reason}")

    def spent_ns(self, device: str) -> dict[Category, int]:
        """A device's settled time by category."""
        rows = self.agent.book.rows(
            "select category, sum(device_ns) from "
            "(select agent_id, group_key, category, device_ns from charge union all "
            "select agent_id, group_key, category, device_ns from accrual) "
            "join device_group using (agent_id, group_key) "
            "join device on device_keys = cast(device_key as text) "
            "where device = ? group by category",
            device,
        )
        return {Category(category): device_ns for category, device_ns in rows}

    def unattributed_ns(self, index: int) -> int:
        """A GPU's time that nobody could tell anything of."""
        return self.spent_ns(self.ids[index]).get(Category.UNATTRIBUTED, 0)

    def known_ns(self, index: int) -> int:
        """A GPU's time that was read."""
        spent = self.spent_ns(self.ids[index])
        return sum(spent.values()) - spent.get(Category.UNATTRIBUTED, 0)

    def until_unattributed(self, *indexes: int) -> None:
        """Wait until more time of these GPUs is unattributed."""
        before = [self.unattributed_ns(index) for index in indexes]
        self.agent.eventually(
            lambda: all(
                self.unattributed_ns(index) > known
                for index, known in zip(indexes, before, strict=True)
            ),
            f"time of GPUs {indexes} is unattributed",
        )

    def until_known(self, *indexes: int) -> None:
        """Wait until more time of these GPUs is settled from readings."""
        before = [self.known_ns(index) for index in indexes]
        self.agent.eventually(
            lambda: all(
                self.known_ns(index) > known for index, known in zip(indexes, before, strict=True)
            ),
            f"time of GPUs {indexes} is known again",
        )


@contextmanager
def metered(root: Path, library: Path, *, devices: int, **keys: Any) -> Generator[Gpus]:
    """A node with so many GPUs, all read by an agent. In the end the ledger adds up.

    `keys` are more of the agent's configuration.
    """
    with Simulator(root / "simulator.state", devices=devices, pcie_query_ns=0) as simulator:
        for index in range(devices):
            simulator.set_utilization(index, 0.0)
        node = Node(root, simulator, library)
        try:
            with simulator.running():
                # A device is soon unattributed; 1 s is ten readings.
                kmsg = root / "kmsg"
                kmsg.touch()
                agent = node.agent(
                    sample_period="100ms",
                    lateness="500ms",
                    telemetry_gap="1s",
                    kmsg=str(kmsg),
                    **keys,
                )
                gpus = Gpus(node, agent)
                gpus.until_read()
                yield gpus
                assert gpus.look().value("undeclared_samples_total") == 0, gpus.agent.log
                assert gpus.agent.stop() == 0, gpus.agent.log
                found = node.audit(gpus.agent.book)
                assert not found, found
        finally:
            node.close()
