"""Texts of metrics as they are really written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families

from apportion.collectors.exposition_text import (
    LONGEST_LINE,
    MOST_LINES,
    MOST_MALFORMED,
    MOST_SAMPLES,
    ExpositionError,
    parse,
)

NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,12}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True),
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12),
    max_size=4,
)


def rows(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    return [(dict(each.labels), each.value) for each in parse(text).samples.get(name, [])]


def test_the_plain_format() -> None:
    """Names, labels, values, TYPE lines; HELP and blank lines are nothing."""
    found = parse(
        "# HELP up Whether it is up.\n# TYPE up gauge\n\n"
        'up{job="a",zone="b"} 1\nup{job="c",} 0\n  up 2.5  \n'
    )
    assert found.types == {"up": "gauge"}
    assert [(dict(each.labels), each.value) for each in found.samples["up"]] == [
        ({"job": "a", "zone": "b"}, 1),
        ({"job": "c"}, 0),
        ({}, 2.5),
    ]
    assert (found.malformed, found.truncated, found.names) == (0, False, {"up"})


def test_a_repeated_family_is_one() -> None:
    """dcgm-exporter writes a family once per kind of entity."""
    text = "# TYPE power gauge\npower 1\n# TYPE other gauge\nother 5\n# TYPE power gauge\npower 2\n"
    assert [value for _, value in rows(text, "power")] == [1, 2]


def test_raw_names_stay() -> None:
    """A counter without `_total` is not renamed, as prometheus_client's parser does."""
    text = "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n" * 2
    text += "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION 7\n"
    assert set(parse(text).samples) == {"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"}
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].name == "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION_total"


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("15152422938", 15152422938, int),
        ("9223372036854775794", 2**63 - 14, int),
        ("68.244000", 68.244, float),
        ("1.79537566256e+09", 1795375662.56, float),
        ("+5", 5, int),
        (".5", 0.5, float),
        ("+Inf", math.inf, float),
        ("-Inf", -math.inf, float),
        ("inf", math.inf, float),
        ("1e400", math.inf, float),
        ("9" * 41, 1e41, float),
    ],
)
def test_values(text: str, value: float, kind: type) -> None:
    """A whole number stays an exact integer: blank values and counters are told by their form."""
    ((_, found),) = rows(f"a {text}\n", "a")
    assert found == pytest.approx(value)
    assert type(found) is kind


def test_nan_is_a_value() -> None:
    """Gauges that were never set are NaN."""
    ((_, value),) = rows("a NaN\n", "a")
    assert math.isnan(value)


@pytest.mark.parametrize(
    "line",
    [
        'a{x="1"} 5 1700000000000',
        'a{x="1"} 5 # {trace_id="0af7"} 0.67 1700000000.1',
        'a{x="1"} 5 1700000000.5 # {trace_id="}"} 0.67',
        'a{x="1",} 5',
        'a{ x = "1" } 5',
        'a {x="1"} 5',
        'a{x="1"}5',
    ],
)
def test_forms_of_a_line(line: str) -> None:
    """Timestamps and exemplars are read over; blanks may be nearly anywhere."""
    assert rows(f"{line}\n", "a") == [({"x": "1"}, 5)]


def test_escapes() -> None:
    """The three that the format has; a backslash before anything else is itself."""
    assert rows('a{x="q\\"b\\\\n\\nc\\d"} 1\n', "a") == [({"x": 'q"b\\n\nc\\d'}, 1)]


@pytest.mark.parametrize(
    ("block", "labels"),
    [
        ('pod="a",note="{"k":"v"}",gpu="0"', {"pod": "a", "note": '{"k":"v"}', "gpu": "0"}),
        ('err_msg="said "no" twice",gpu="0"', {"err_msg": 'said "no" twice', "gpu": "0"}),
        ('note="ends with quote"",gpu="0"', {"note": 'ends with quote"', "gpu": "0"}),
        ('note="a } b {",gpu="0"', {"note": "a } b {", "gpu": "0"}),
        ('path="C:\\dir\\",gpu="0"', {"path": "C:\\dir\\", "gpu": "0"}),
        ('note="x", "y" z",gpu="0"', {"note": 'x", "y" z', "gpu": "0"}),
    ],
)
def test_values_of_labels_that_were_not_escaped(block: str, labels: dict[str, str]) -> None:
    """dcgm-exporter's template escapes nothing."""
    assert rows(f"a{{{block}}} 5\n", "a") == [(labels, 5)]
    assert rows(f'a{{{block}}} 5 # {{t="x"}} 1\n', "a") == [(labels, 5)]


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a{} ",
        "a{x} 5",
        'a{x="1" 5',
        'a x="1"} 5',
        'a{x="1"} five',
        "a 1_000",
        "a 0x10",
        "a \u0665",
        "5 a",
        '{"a.b", x="1"} 5',
        'a{="1"} 5',
        'a{x="1"} 5 6 7',
        f'a{{x="{"y" * LONGEST_LINE}"}} 5',
    ],
)
def test_a_malformed_line_spoils_only_itself(line: str) -> None:
    """It is counted, and the first one's line number is kept."""
    found = parse(f"# TYPE b gauge\nb 1\n{line}\nb 2\n")
    assert [each.value for each in found.samples["b"]] == [1, 2]
    assert (found.malformed, found.first_malformed) == (1, 3)
    assert "a" not in found.samples


def test_a_last_line_without_its_end_is_not_believed() -> None:
    """`energy 1234` may be the beginning of `energy 123456789`: a reset that never was."""
    found = parse("energy 5\nenergy 1234")
    assert [each.value for each in found.samples["energy"]] == [5]
    assert found.truncated
    assert not parse("").truncated


def test_only_what_is_wanted_is_kept() -> None:
    """The names of the rest are known, its values are not read."""
    found = parse('a{x="1"} 1\nb{x=broken} 2\nab 3\n', {"a"})
    assert set(found.samples) == {"a"}
    assert (found.names, found.malformed) == ({"a", "b", "ab"}, 0)


def test_bounds() -> None:
    """A text is refused, not stored, where no real one is so long."""
    with pytest.raises(ExpositionError, match="lines"):
        parse("\n" * (MOST_LINES + 1))
    with pytest.raises(ExpositionError, match="samples"):
        parse("a 1\n" * (MOST_SAMPLES + 1))
    parse("a 1\n" * (MOST_SAMPLES + 1), {"b"})
    with pytest.raises(ExpositionError, match="malformed lines, the first at line 2"):
        parse("a 1\n" + "!\n" * (MOST_MALFORMED + 1))


@given(st.text())
@example('a{b="' + '"},{' * 500)
@example("a" + "{" * 2_000)
@example('a{b="\\')
@example("}" * 2_000 + " 1 # {")
def test_any_text_is_read(text: str) -> None:
    """Whatever a server sends: no exception, and every line is either read or counted."""
    found = parse(f"{text}\n")
    assert found.malformed <= text.count("\n") + 1
    assert set(found.samples) <= found.names


@given(st.binary(max_size=400))
def test_any_bytes_are_read(body: bytes) -> None:
    """As they come from the network."""
    parse(body.decode("utf-8", "replace"))


@given(
    NAMES,
    LABELS,
    st.floats(allow_nan=False) | st.integers(-(2**70), 2**70),
)
def test_what_is_written_is_read(name: str, labels: dict[str, str], value: float) -> None:
    """Any name, any labels with their escapes, any value."""

    def escaped(text: str) -> str:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    block = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    (sample,) = parse(f"{name}{{{block}}} {value!r}\n").samples[name]
    assert dict(sample.labels) == labels
    assert sample.value == value


@given(
    LABELS.filter(bool),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Z"]), max_size=20),
)
def test_an_unescaped_value_among_others(labels: dict[str, str], raw: str) -> None:
    """The other labels are read however one of them was written, unless it imitates a label."""
    raw = raw.replace("=", "-").replace("\\", "/")
    others = {key: "v" for key in labels if key != "raw"}
    block = ",".join([f'raw="{raw}"', *(f'{key}="v"' for key in others)])
    found = parse(f"a{{{block}}} 5\n").samples["a"]
    assert [({**each.labels}, each.value) for each in found] == [({"raw": raw, **others}, 5)]


@given(st.lists(st.floats(0, 100), max_size=20), st.integers(0, 10**6))
def test_agrees_with_the_reference_implementation(values: list[float], count: int) -> None:
    """prometheus_client writes, both parsers read, in both formats."""
    registry = CollectorRegistry()
    counter = Counter("made", "x", ["who"], registry=registry)
    counter.labels('a "b" \\ {c}').inc(count)
    Gauge("unset", "x", registry=registry).set(math.nan)
    histogram = Histogram("took_seconds", "x", ["who"], registry=registry)
    for value in values:
        histogram.labels("z").observe(value, {"trace_id": "}"})
    classic = generate_latest(registry).decode()
    wanted = sorted(
        (sample.name, sorted(sample.labels.items()), repr(float(sample.value)))
        for family in text_string_to_metric_families(classic)
        for sample in family.samples
    )
    encoder, _ = choose_encoder("application/openmetrics-text")
    for text in (classic, encoder(registry).decode()):
        found = parse(text)
        assert found.malformed == 0
        assert wanted == sorted(
            (name, sorted(sample.labels.items()), repr(float(sample.value)))
            for name, samples in found.samples.items()
            for sample in samples
        )


@pytest.mark.parametrize("folder", ["dcgm", "engines"])
def test_every_published_text(published: Path, folder: str) -> None:
    """Each line of each is read."""
    texts = [*(published / folder).glob("*.prom"), *(published / folder).glob("*.txt")]
    assert texts
    for path in texts:
        text = path.read_text()
        found = parse(text)
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert (found.malformed, found.truncated) == (0, False), path.name
        assert sum(map(len, found.samples.values())) == len(lines), path.name
