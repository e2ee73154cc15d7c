"""Files of stacks: what is written is read again, and real ones of py-spy are understood."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from tests.profiles.stacking import stacks_of

from apportion.core.errors import ProfileTraceError
from apportion.profiles.folded_text import folded_lines
from apportion.profiles.pprof import pprof
from apportion.profiles.speedscope import speedscope_json
from apportion.profiles.stack_file import read_stacks
from apportion.profiles.stacks import Stacks
from apportion.profiles.weight import COUNT, ENERGY, TIME, cost

NASTY = "f(a, b) </script>&\"' \u2028é (x.py:1)"


def counted(stacks: Stacks, row: int = 0) -> Counter[tuple[str, ...]]:
    """What each stack weighs in all."""
    found: Counter[tuple[str, ...]] = Counter()
    for index, value in enumerate(stacks.values[row].tolist()):
        found[tuple(stacks.stack(index))] += value
    return found


def test_folded_text_comes_back(tmp_path: Path) -> None:
    """Spaces and markup in frames survive; what the form cannot hold is replaced, not lost."""
    stacks = stacks_of([(f"main;{NASTY}", 3), ("main", 2), ("idle", 0)])
    path = tmp_path / "written.folded.gz"
    path.write_bytes(gzip.compress("".join(folded_lines(stacks, 0)).encode()))

    assert counted(read_stacks(path, COUNT)) == {("main", NASTY): 3, ("main",): 2}


def test_a_frame_never_breaks_its_line() -> None:
    """A semicolon or an end of line in a name would make other stacks of it."""
    stacks = stacks_of([("a", 1)])
    hostile = replace(stacks, names=("x;y\nz 9",))

    assert list(folded_lines(hostile, 0)) == ["x:y z 9 1\n"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a;b 3\nnot a stack\n", r"bad:2: is no line of folded text .* 'stack'"),
        ("a 1.5\n", r"bad:1: .*'1.5' is no whole number"),
        ("a -1\n", r"bad:1: "),
        (f"a {1 << 63}\n", r"bad:1: "),
        ("\n\n", r"bad: has no stack in it"),
        ("", r"bad: has no stack in it"),
        ("[]", r"bad: is a list of JSON"),
        ('{"shared": {"frames": []}}', r"bad: is no speedscope file"),
        ("{", r"bad: is no speedscope file"),
    ],
)
def test_what_is_no_stacks_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """A refusal names the file, the line where there is one, and what to do."""
    path = tmp_path / "bad"
    path.write_text(text)

    with pytest.raises(ProfileTraceError, match=said):
        read_stacks(path, COUNT)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    """What the disk or a copy lost is no empty profile."""
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"a 1\n" * 1000)[:-9])

    with pytest.raises(ProfileTraceError, match="cut off or damaged"):
        read_stacks(cut, COUNT)
    with pytest.raises(ProfileTraceError, match="No such file"):
        read_stacks(tmp_path / "none", COUNT)
    with pytest.raises(ProfileTraceError, match="no plain file"):
        read_stacks(tmp_path, COUNT)


def test_speedscope_keeps_every_weight(tmp_path: Path) -> None:
    """Money, energy and time come back with their units, so that two files can be compared."""
    weights = (TIME, ENERGY, cost("EUR"))
    stacks = stacks_of([(f"a;{NASTY}", (1, 2, 1 << 60)), ("a", (4, 5, 6))], weights)
    path = tmp_path / "written.json"
    path.write_bytes(speedscope_json(stacks, "title"))

    found = read_stacks(path, COUNT)

    assert found.weights == weights
    assert [counted(found, row) for row in range(3)] == [counted(stacks, row) for row in range(3)]
    document = json.loads(path.read_bytes())
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert [one["unit"] for one in document["profiles"]] == ["nanoseconds", "none", "none"]


def test_speedscope_keeps_labels(tmp_path: Path) -> None:
    """What a stack belongs to comes back: a kept profile can be joined with a ledger later."""
    path = tmp_path / "written.json"
    stacks = stacks_of([("a;b", 1), ("a;b", 2), ("c", 3)]).labelled("step", ["7", None, "a"])
    path.write_bytes(speedscope_json(stacks, "title"))

    found = read_stacks(path, COUNT)

    assert found.label("step") == ["7", None, "a"]
    assert [found.stack(index) for index in range(3)] == [["a", "b"], ["a", "b"], ["c"]]
    assert found.without("step").merged().values.tolist() == [[3, 3]]


def test_labels_of_other_stacks_are_refused(tmp_path: Path) -> None:
    """More or fewer labels than stacks would label the wrong ones."""
    path = tmp_path / "bad.json"
    document = json.loads(speedscope_json(stacks_of([("a", 1)]).labelled("step", ["7"]), ""))
    document["apportion"]["labels"]["step"] *= 2
    path.write_text(json.dumps(document))

    with pytest.raises(ProfileTraceError, match="1 stacks, 2 labels 'step'"):
        read_stacks(path, COUNT)


def test_speedscope_of_events(tmp_path: Path) -> None:
    """Openings and closings become stacks with the time in between."""
    path = tmp_path / "events.json"
    events = [("O", 0, 0), ("O", 1, 10), ("C", 1, 25), ("C", 0, 30), ("O", 1, 40), ("C", 1, 41)]
    profile = {
        "type": "evented",
        "name": "thread",
        "unit": "microseconds",
        "startValue": 0,
        "endValue": 41,
        "events": [{"type": kind, "frame": frame, "at": at} for kind, frame, at in events],
    }
    shared = {"frames": [{"name": "main", "file": "/x/m.py", "line": 3}, {"name": "work"}]}
    path.write_text(json.dumps({"shared": shared, "profiles": [profile]}))

    found = read_stacks(path, COUNT)

    assert found.weights == (TIME,)
    assert counted(found) == {
        ("main (m.py:3)",): 15_000,
        ("main (m.py:3)", "work"): 15_000,
        ("work",): 1_000,
    }


@pytest.mark.parametrize(
    "damage",
    [
        {"samples": [[7]]},
        {"samples": [[-1]]},
        {"weights": [1, 2]},
        {"weights": [1e30]},
        {"type": "other"},
        {"unit": "none", "weights": [0.5]},
    ],
)
def test_speedscope_that_contradicts_itself(tmp_path: Path, damage: dict[str, object]) -> None:
    """Frames that are not there and weights that are none are refused, not guessed."""
    path = tmp_path / "bad.json"
    profile = {"type": "sampled", "unit": "seconds", "samples": [[0]], "weights": [1], **damage}
    path.write_text(json.dumps({"shared": {"frames": [{"name": "f"}]}, "profiles": [profile]}))

    with pytest.raises(ProfileTraceError, match="contradicts itself"):
        read_stacks(path, COUNT)


def test_py_spys_files_agree(published: Path) -> None:
    """Its raw and its speedscope form of one recording: the same frames, and as many samples."""
    folder = published / "pyspy"
    raw = counted(read_stacks(folder / "pyspy_043_raw.txt", COUNT))
    scope = counted(read_stacks(folder / "pyspy_043_speedscope.json", COUNT))

    assert raw.total() == 154
    assert scope.total() == 3_020_000_000  # another recording of 3 s, at 50 Hz
    assert {stack[1:] for stack in scope} <= set(raw)


def test_pprof_is_what_its_schema_says() -> None:
    """Decoded by protobuf's own reader: types, leaf-first stacks, values and labels."""
    weights = (TIME, ENERGY, cost("USD"))
    stacks = stacks_of([("main;leaf", (300, 0, 1 << 50)), ("main", (1, 2, 3))], weights)
    stacks = replace(stacks, labels={"frame": np.array([-1, 1], np.int32)})

    profile = _decoded(gzip.decompress(pprof(stacks, 2, start_unix_ns=77, duration_ns=88)))

    text = list(profile.string_table)
    assert text[0] == ""
    assert [(text[one.type], text[one.unit]) for one in profile.sample_type] == [
        ("time", "nanoseconds"),
        ("energy", "millijoules"),
        ("cost", "picousd"),
    ]
    assert text[profile.default_sample_type] == "cost"
    assert (profile.time_nanos, profile.duration_nanos) == (77, 88)
    functions = {one.id: text[one.name] for one in profile.function}
    places = {one.id: functions[one.line[0].function_id] for one in profile.location}
    assert [
        ([places[number] for number in one.location_id], list(one.value)) for one in profile.sample
    ] == [(["leaf", "main"], [300, 0, 1 << 50]), (["main"], [1, 2, 3])]
    labels = [[(text[one.key], text[one.str]) for one in two.label] for two in profile.sample]
    assert labels == [[], [("frame", "leaf")]]


def _decoded(content: bytes) -> Any:
    """By the messages of profile.proto that are used, described here once more."""
    file = json_format.ParseDict(
        {
            "name": "profile.proto",
            "syntax": "proto3",
            "messageType": [
                {"name": name, "field": [_field(*field) for field in fields]}
                for name, fields in _MESSAGES.items()
            ],
        },
        descriptor_pb2.FileDescriptorProto(),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    form: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("Profile"))
    return form.FromString(content)


def _field(name: str, number: int, kind: str, label: str = "OPTIONAL") -> dict[str, object]:
    found: dict[str, object] = {"name": name, "number": number, "label": f"LABEL_{label}"}
    if kind in _MESSAGES:
        return {**found, "type": "TYPE_MESSAGE", "typeName": kind}
    return {**found, "type": f"TYPE_{kind}"}


_MESSAGES: Final[dict[str, list[tuple[Any, ...]]]] = {
    "ValueType": [("type", 1, "INT64"), ("unit", 2, "INT64")],
    "Label": [("key", 1, "INT64"), ("str", 2, "INT64")],
    "Sample": [
        ("location_id", 1, "UINT64", "REPEATED"),
        ("value", 2, "INT64", "REPEATED"),
        ("label", 3, "Label", "REPEATED"),
    ],
    "Line": [("function_id", 1, "UINT64"), ("line", 2, "INT64")],
    "Location": [("id", 1, "UINT64"), ("line", 4, "Line", "REPEATED")],
    "Function": [("id", 1, "UINT64"), ("name", 2, "INT64")],
    "Profile": [
        ("sample_type", 1, "ValueType", "REPEATED"),
        ("sample", 2, "Sample", "REPEATED"),
        ("location", 4, "Location", "REPEATED"),
        ("function", 5, "Function", "REPEATED"),
        ("string_table", 6, "STRING", "REPEATED"),
        ("time_nanos", 9, "INT64"),
        ("duration_nanos", 10, "INT64"),
        ("default_sample_type", 14, "INT64"),
    ],
}
