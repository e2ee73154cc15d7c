"""What the last minutes cost and how well devices were used, as gauges.

For whoever has no recording rules: Prometheus computes the same of the counters, over any window.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from apportion.agent.risen import Risen
from apportion.agent.snapshot import LostKey, SpendKey, StepKey, TokenKey
from apportion.core.category import Category
from apportion.core.device_facts import DeviceFacts
from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND, UNITS_PER_CURRENCY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from apportion.agent.snapshot import Spend, TrainingKey, TrainingWork
    from apportion.core.reading import DeviceInfo

WINDOW_NS: Final = 300 * NS_PER_SECOND
LOOK_NS: Final = 15 * NS_PER_SECOND
"""Between two looks at the counters; the figures change so often."""
_IDLE: Final = frozenset({Category.ALLOCATED_IDLE, Category.UNALLOCATED})
_ENGINE: Final = ("target", "engine", "model")

Key = tuple[str, ...]
"""What is counted, then the values of the labels."""


@dataclass(frozen=True, slots=True)
class _Ratio:
    """`factor` x part / whole of what two counters rose by over the window.

    With `whole_life` of what they are: since the agent started. With `from_zero` a counter that was
    not there before has risen from 0; others began with what somebody else had counted.
    """

    family: Family
    part: str
    whole: str
    factor: float = 1.0
    constant: tuple[tuple[str, str], ...] = ()
    whole_life: bool = False
    from_zero: bool = True


def _gauge(name: str, unit: str, labels: tuple[str, ...], text: str, source: str) -> Family:
    return Family(f"apportion_{name}", "gauge", unit, labels, text, source, simulated=True)


_RATIOS: Final = (
    _Ratio(
        _gauge(
            "cost_{currency}_per_million_tokens",
            "currency",
            ("workload", "tenant", "model"),
            "Direct cost of a million tokens over the last 5 minutes, input (cached ones too), "
            "output and training together. Absent without tokens or price.",
            "settlement",
        ),
        "served_units",
        "tokens",
        1e6 / UNITS_PER_CURRENCY,
    ),
    _Ratio(
        _gauge(
            "cost_{currency}_per_step",
            "currency",
            ("workload", "run"),
            "Direct cost of a step that ended well over the last 5 minutes; each rank counts its "
            "own steps.",
            "settlement",
        ),
        "run_units",
        "steps",
        1 / UNITS_PER_CURRENCY,
    ),
    _Ratio(
        _gauge(
            "idle_ratio",
            "ratio",
            (),
            "Share of settled device time of the last 5 minutes that was allocated_idle or "
            "unallocated.",
            "settlement",
        ),
        "idle_ns",
        "all_ns",
    ),
    _Ratio(
        _gauge(
            "goodput_ratio",
            "ratio",
            ("workload", "run"),
            "Share of a run's device time since the agent started that is inside steps, less what "
            "of them a restart made vain. `apportion report --run` takes away data waits too.",
            "settlement",
        ),
        "kept_ns",
        "run_ns",
        whole_life=True,
    ),
    _Ratio(
        _gauge(
            "batch_size",
            "requests",
            ("workload", "model"),
            "Requests that ran at once, mean over the last 5 minutes of looks, one a second, at "
            "which any ran.",
            "ring reader",
        ),
        "open",
        "open_looks",
    ),
    _Ratio(
        _gauge(
            "training_mfu_ratio",
            "ratio",
            ("workload", "run", "method"),
            "Model FLOPs utilisation of steps that ended well in the last 5 minutes, by what the "
            "trainer declared: training_flops over training_possible_flops.",
            "ring reader",
        ),
        "trained",
        "trainable",
        constant=(("method", "declared"),),
    ),
    _Ratio(
        _gauge(
            "engine_mfu_ratio",
            "ratio",
            (*_ENGINE, "method"),
            "Model FLOPs utilisation over the last 5 minutes: the engine's estimate for a device "
            "over its dense 16-bit peak. Absent: no estimate, or devices that differ or whose peak "
            "is not known.",
            "engines",
        ),
        "flop",
        "flop_possible",
        constant=(("method", "engine_estimate"),),
        from_zero=False,
    ),
    _Ratio(
        _gauge(
            "engine_mbu_ratio",
            "ratio",
            (*_ENGINE, "method"),
            "Memory bandwidth utilisation over the last 5 minutes: bytes that the engine estimates "
            "for a device, over what its memory can move.",
            "engines",
        ),
        "bytes",
        "bytes_possible",
        constant=(("method", "engine_estimate"),),
        from_zero=False,
    ),
)
FAMILIES: Final = tuple(ratio.family for ratio in _RATIOS)


class Recent:
    """Looks at counters every `LOOK_NS`. One writer: the settlement thread."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, Counter[Key]]] = deque()
        self._open: Counter[Key] = Counter()
        self._sums: Counter[Key] = Counter()
        self._time_ns, self._units = Risen[SpendKey](), Risen[SpendKey]()
        self._lost_ns = Risen[LostKey]()
        self._tokens, self._steps = Risen[TokenKey](), Risen[StepKey]()
        self._samples: tuple[Sample, ...] = ()

    def samples(
        self,
        now_ns: int,
        *,
        spend: Mapping[SpendKey, Spend],
        lost: Mapping[LostKey, Spend],
        tokens: Mapping[TokenKey, int],
        steps: Mapping[StepKey, int],
        training: Mapping[TrainingKey, TrainingWork],
        open_requests: Mapping[tuple[str, str], int],
        collected: Iterable[Sample],
        devices: Iterable[DeviceInfo],
    ) -> tuple[Sample, ...]:
        """The figures as of the last look. Call it about once a second.

        `open_requests` counts those that run now, by workload and model; `collected` are samples of
        collectors, of which those of engines matter.
        """
        for key, count in open_requests.items():
            if count:
                self._open[("open", *key)] += count
                self._open[("open_looks", *key)] += 1
        if self._looks and now_ns - self._looks[-1][0] < LOOK_NS:
            return self._samples
        self._add(spend, lost, tokens, steps)
        counted = Counter({**self._open, **self._sums})
        for run, work in training.items():
            counted["trained", run.workload, run.run] = work.flops
            counted["trainable", run.workload, run.run] = work.possible
        _count_engines(counted, collected, _peak(devices), now_ns)
        self._looks.append((now_ns, counted))
        while now_ns - self._looks[0][0] > WINDOW_NS:
            self._looks.popleft()
        self._samples = tuple(self._figures(counted))
        return self._samples

    def cost_per_token(self) -> dict[tuple[str, str], float]:
        """By workload and model what a token cost over the window, whoever asked for it."""
        if not self._looks:
            return {}
        before, now = self._looks[0][1], self._looks[-1][1]
        risen: Counter[Key] = Counter()
        for key, count in now.items():
            if key[0] in {"served_units", "tokens"}:
                kind, workload, _, model = key
                risen[kind, workload, model] += count - before.get(key, 0)
        found: dict[tuple[str, str], float] = {}
        for (kind, workload, model), tokens in risen.items():
            units = risen["served_units", workload, model]
            if kind == "tokens" and tokens > 0 and units > 0:
                found[workload, model] = units / (tokens * UNITS_PER_CURRENCY)
        return found

    def _add(
        self,
        spend: Mapping[SpendKey, Spend],
        lost: Mapping[LostKey, Spend],
        tokens: Mapping[TokenKey, int],
        steps: Mapping[StepKey, int],
    ) -> None:
        """What counters rose by since the last look; those that ended take nothing away."""
        risen: Counter[Key] = Counter()
        _count_spend(
            risen,
            self._time_ns.since_last({key: spent.device_ns for key, spent in spend.items()}),
            self._units.since_last(
                {key: spent.units for key, spent in spend.items() if spent.units is not None}
            ),
            self._lost_ns.since_last({key: loss.device_ns for key, loss in lost.items()}),
        )
        for token, count in self._tokens.since_last(tokens).items():
            if token.token_type != "cached_input":  # noqa: S105 - input holds them
                risen["tokens", token.workload, token.tenant, token.model] += count
        for step, count in self._steps.since_last(steps).items():
            if step.status.label == "ok":
                risen["steps", step.workload, step.run] += count
        # Only of what is there: names come and go, and so do their sums.
        self._sums = Counter({key: self._sums[key] + count for key, count in risen.items()})

    def _figures(self, now: Counter[Key]) -> Iterator[Sample]:
        for ratio in _RATIOS:
            labels = ratio.family.labels[: len(ratio.family.labels) - len(ratio.constant)]
            for key, count in now.items():
                if key[0] != ratio.part:
                    continue
                before = self._before(key, ratio)
                whole_key = (ratio.whole, *key[1:])
                part = count - before.get(key, 0)
                whole = now.get(whole_key, 0) - before.get(whole_key, 0)
                if whole > 0 and part >= 0:
                    named = zip(labels, key[1:], strict=True)
                    name = ratio.family.name.removeprefix("apportion_")
                    yield Sample(name, ratio.factor * part / whole, (*named, *ratio.constant))

    def _before(self, key: Key, ratio: _Ratio) -> Mapping[Key, int]:
        """The counters at the window's beginning."""
        if ratio.whole_life:
            return {}
        looks = (look for _, look in self._looks)
        return next(looks if ratio.from_zero else (look for look in looks if key in look))


def _count_spend(
    counted: Counter[Key],
    time_ns: Mapping[SpendKey, int],
    units: Mapping[SpendKey, int],
    vain_ns: Mapping[LostKey, int],
) -> None:
    for key, spent_ns in time_ns.items():
        run, is_direct = (key.workload, key.run), key.category is Category.DIRECT
        counted[("all_ns",)] += spent_ns
        counted[("idle_ns",)] += spent_ns if key.category in _IDLE else 0
        if key.run:
            counted[("run_ns", *run)] += spent_ns
            counted[("kept_ns", *run)] += spent_ns if is_direct else 0
        if is_direct and key in units:
            counted["served_units", key.workload, key.tenant, key.model] += units[key]
            if key.run:
                counted[("run_units", *run)] += units[key]
    for loss, lost_ns in vain_ns.items():
        if loss.source is Category.DIRECT and ("kept_ns", loss.workload, loss.run) in counted:
            counted["kept_ns", loss.workload, loss.run] -= lost_ns


def _count_engines(
    counted: Counter[Key], collected: Iterable[Sample], peak: DeviceFacts | None, now_ns: int
) -> None:
    for sample in collected:
        if sample.name not in {"engine_estimated_flops_total", "engine_estimated_bytes_total"}:
            continue
        of = "flop" if sample.name == "engine_estimated_flops_total" else "bytes"
        labels = dict(sample.labels)
        place = tuple(labels.get(label, "") for label in _ENGINE)
        counted[(of, *place)] += int(sample.value)
        if peak is not None:
            possible = peak.flop_per_s if of == "flop" else peak.bytes_per_s
            counted[(f"{of}_possible", *place)] = int(possible) * now_ns // NS_PER_SECOND


def _peak(devices: Iterable[DeviceInfo]) -> DeviceFacts | None:
    """What each device can do, where all are alike."""
    found = {DeviceFacts.named(device.name) for device in devices}
    return found.pop() if len(found) == 1 else None
