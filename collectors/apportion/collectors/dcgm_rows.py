"""From a text of dcgm-exporter to values by GPU and MIG instance.

Labels are `UUID` or `uuid`, `modelName` or `model_name`; a family may come twice, whole-GPU fields
are repeated on every MIG instance, and every pod that shares a GPU repeats its rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from apportion.collectors.dcgm_fields import FIELDS, XID_TOTAL, Spelling, is_blank
from apportion.collectors.exposition_text import ExpositionText, RawSample

_UUID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_PROFILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,31}", re.ASCII)
_LONGEST_TEXT: Final = 128
_MOST_GPUS: Final = 1_024

_Place = tuple[str, int]
"""UUID and GPU instance, -1 for the whole GPU."""
Values = dict[str, float]
"""By the word in `FIELDS`; what the text does not tell is absent."""


@dataclass(slots=True)
class InstanceRows:
    """What the text says of one MIG instance."""

    profile: str
    values: Values = field(default_factory=dict[str, float])


@dataclass(slots=True)
class GpuRows:
    """What the text says of one GPU: facts from labels, values of the whole, its instances by id.

    `xids` are the exporter's own totals by code.
    """

    uuid: str
    index: int = -1
    model: str = ""
    driver_version: str = ""
    values: Values = field(default_factory=dict[str, float])
    instances: dict[int, InstanceRows] = field(default_factory=dict[int, InstanceRows])
    xids: dict[int, int] = field(default_factory=dict[int, int])

    def whole(self, word: str) -> int | None:
        """A value of the whole GPU, from its own row or from one that an instance repeats."""
        rows = (self.values, *(instance.values for instance in self.instances.values()))
        return max((round(values[word]) for values in rows if word in values), default=None)


class _Labels:
    """The labels of a row that matter, whatever their case."""

    __slots__ = ("driver_version", "index", "instance", "link", "model", "profile", "uuid", "xid")

    def __init__(self, labels: Mapping[str, str]) -> None:
        plain = {name.lower().replace("_", ""): text for name, text in labels.items() if text}
        self.uuid = plain.get("uuid") or plain.get("gpuuuid") or ""
        self.index = _whole(plain.get("gpu"))
        self.model = _short(plain.get("modelname"))
        driver = plain.get("dcgmfidriverversion") or plain.get("dcgmfisystemdriverversion")
        self.driver_version = _short(driver)
        self.instance = _whole(plain.get("gpuiid"))
        self.profile = plain.get("gpuiprofile") or ""
        self.link = plain.get("nvlink")
        self.xid = _whole(plain.get("xid"))


def gpu_rows(text: ExpositionText) -> dict[str, GpuRows]:
    """Every GPU in the text by its UUID, in the text's order.

    Where several rows say different things of the same field, as a GPU's rows for each of its MIG
    instances or pods do, the largest counts: of a counter it is the one that was read last.
    """
    reader = _Reader(text)
    for word, spellings in FIELDS.items():
        told: set[_Place] = set()
        for spelling in spellings:
            told |= reader.take(word, spelling, told)
    reader.take_xids()
    return reader.gpus


class _Reader:
    """Goes through one text."""

    def __init__(self, text: ExpositionText) -> None:
        self.gpus: dict[str, GpuRows] = {}
        self._text = text
        self._seen: dict[int, _Labels] = {}

    def take(self, word: str, spelling: Spelling, told: set[_Place]) -> set[_Place]:
        """The values of one name, but at places that another name has told; where it had any."""
        links: dict[_Place, dict[str, float]] = {}
        places: set[_Place] = set()
        for row in self._text.samples.get(spelling.name, ()):
            labels = self._labels(row)
            values = _values_of(self.gpus, labels)
            value = None if is_blank(row.value) else spelling.convert(row.value)
            place = (labels.uuid, labels.instance)
            if values is None or value is None or place in told:
                continue
            places.add(place)
            if labels.link is not None:
                links.setdefault(place, {})[labels.link] = value
                value = sum(links[place].values())
            values[word] = max(value, values.get(word, value))
        return places

    def take_xids(self) -> None:
        """The exporter's own counter of XID errors."""
        for row in self._text.samples.get(XID_TOTAL, ()):
            labels = self._labels(row)
            gpu = self.gpus.get(labels.uuid)
            if gpu is not None and labels.xid > 0 and not is_blank(row.value):
                gpu.xids[labels.xid] = max(int(row.value), gpu.xids.get(labels.xid, 0))

    def _labels(self, row: RawSample) -> _Labels:
        """Read once for all rows that share them."""
        known = self._seen.get(id(row.labels))
        if known is None:
            known = self._seen[id(row.labels)] = _Labels(row.labels)
        return known


def _values_of(gpus: dict[str, GpuRows], labels: _Labels) -> Values | None:
    """Where a row's value goes; None for rows of switches, CPUs and what has no sane id."""
    if not _UUID.fullmatch(labels.uuid):
        return None
    gpu = gpus.get(labels.uuid)
    if gpu is None:
        if len(gpus) >= _MOST_GPUS:
            return None
        gpu = gpus[labels.uuid] = GpuRows(labels.uuid)
    if labels.index >= 0:
        gpu.index = labels.index
    gpu.model = gpu.model or labels.model
    gpu.driver_version = gpu.driver_version or labels.driver_version
    if labels.instance < 0:
        return gpu.values
    if not _PROFILE.fullmatch(labels.profile):
        return None
    return gpu.instances.setdefault(labels.instance, InstanceRows(labels.profile)).values


def _whole(text: str | None) -> int:
    return int(text) if text is not None and re.fullmatch(r"\d{1,9}", text, re.ASCII) else -1


def _short(text: str | None) -> str:
    return "".join(each if each.isprintable() else "?" for each in (text or "")[:_LONGEST_TEXT])
