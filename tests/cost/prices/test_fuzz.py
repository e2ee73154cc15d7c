"""Hostile tables and price lists: a valid table or one refusal, and nothing half done."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apportion.agent.cli import main
from apportion.core.errors import PriceTableError
from apportion.cost.prices.importers.aws_spot import read_aws_spot
from apportion.cost.prices.importers.opencost import read_opencost_csv, read_opencost_json
from apportion.cost.prices.importers.skypilot import read_skypilot, read_slurm
from apportion.cost.rate import PriceTable

YAML: Final = """\
prices:
  - device: NVIDIA H100 80GB HBM3
    per_hour: "98.32"
    currency: USD
    unit: instance
    devices: 8
    covers: gpu+host
    basis: list
    source: &who somebody
    as_of: 2026-05-01
    from: 2026-05-01
    to: 2026-07-01T12:00:00Z
    match: {cloud: aws, capacity: reserved, labels: {pool: a}}
    granularity: 3600
    minimum: 60
    committed_devices: 16
    mig: memory
  - {device: T4, per_hour: '0.5', currency: USD, covers: gpu, basis: list, source: *who,
     as_of: 2026-05-01}
"""
CSV: Final = '''\
device,per_hour,currency,unit,devices,covers,basis,source,as_of,from,to,match.cloud,match.labels.a,minimum
H100-SXM,98.32,USD,instance,8,gpu+host,list,"a, test",2026-05-01,2026-05-01,2026-06-01,aws,x,60
T4,0.35,USD,,,gpu,list,"two ""quotes""",2026-05-01,,,,,
'''
VMS: Final = """\
InstanceType,AcceleratorName,AcceleratorCount,GpuInfo,Price,SpotPrice,Region,AvailabilityZone
h100x8,H100,8.0,"{'Gpus': [{'Name': null}], 'x': 1}",23.60,10.00,eu,eu-a
,A100,1,,2.93,,eu,eu-b
cpu,,,,0.1,,eu,
"""
SLURM: Final = """\
Region,Zone,PricePerVCPU,PricePerMemoryGB,AcceleratorName,PricePerAccelerator
c1,p1,0.01,0.001,A100-80GB,1.10
c1,p1,0.01,0.001,,
"""
OPENCOST_CSV: Final = """\
EndTimestamp,InstanceID,Region,AssetClass,InstanceIDField,InstanceType,MarketPriceHourly,Version
,node-1,eu,node,spec.providerID,big,5.0,
,L40S,eu,gpu,gpu.nvidia.com/class,,0.75,
"""
OPENCOST_JSON: Final = '{"provider": "custom",\n "CPU": "0.03", "GPU": "0.95", "spotGPU": 0.30}'
SPOT: Final = """\
{"SpotPriceHistory": [
  {"AvailabilityZone": "us-east-1a", "InstanceType": "p5.48xlarge", "ProductDescription":
   "Linux/UNIX", "SpotPrice": "40.00", "Timestamp": "2026-05-02T10:00:00+00:00"},
  {"AvailabilityZone": "us-east-1a", "InstanceType": "p5.48xlarge", "ProductDescription":
   "Linux/UNIX", "SpotPrice": "32.00", "Timestamp": "2026-05-01T09:00:00.000Z"}
], "NextToken": ""}
"""
SPOT_OPTIONS: Final = ["--device", "H100", "--devices", "8"]
LISTS: Final = {
    "skypilot": (VMS, list[str]()),
    "slurm": (SLURM, list[str]()),
    "opencost-csv": (OPENCOST_CSV, list[str]()),
    "opencost-json": (OPENCOST_JSON, ["--device", "L40S"]),
    "aws-spot": (SPOT, SPOT_OPTIONS),
}
TOKENS: Final = [
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\x85", b"\x1b[2J"),
    *(b"9" * 5_000, b"1e999999999", b"1e-999999999", b"-1", b"NaN", b"Infinity", b"1_0", b"0x1f"),
    *(b'"', b"'", b"\r", b"\n", b"\r\n", b"\t", b",", b",,,,,,,,,,,,,,", b":", b"#", b"- ", b"|\n"),
    *(b"&a [*a]", b"*a", b"*who", b"<<: *who", b"? ", b"!!python/object:os.system", b"!!binary x"),
    *(b"{", b"}", b"[" * 300, b"]", b"---\n", b"%YAML 9.9\n", b"null", b"true", b"190:20:30", b"~"),
    *(b"9999-12-31", b"0001-01-01", b"2026-02-30", b"XQZ", b"EUR", "٣".encode(), b"=1+1", b"../.."),
]


@st.composite
def mutated(draw: st.DrawFn, text: str) -> bytes:
    """A valid file in which something was cut, doubled, replaced, moved or encoded wrongly."""
    lines = text.encode().splitlines(keepends=True)
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["double", "drop", "swap"]))
        index = draw(st.integers(0, len(lines) - 1))
        if kind == "double":
            lines.insert(index, lines[index])
        elif kind == "drop" and len(lines) > 1:
            del lines[index]
        else:
            lines[0], lines[index] = lines[index], lines[0]
    content = b"".join(lines)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 12))
        piece = draw(st.sampled_from(TOKENS) | st.binary(max_size=4))
        content = content[:start] + piece + content[start + length :]
    if draw(st.integers(0, 9)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    if draw(st.integers(0, 19)) == 0:
        content = content.decode("utf-8", "ignore").encode(
            draw(st.sampled_from(ENCODINGS)), "replace"
        )
    return content


ENCODINGS: Final = ["utf-16", "utf-32", "utf-8-sig", "cp037"]


def outcome(read: Callable[[], object], path: Path) -> str:
    """`read`, or where the file is refused what is said of it; any other error is a fault."""
    refusal: PriceTableError | None = None
    try:
        read()
    except PriceTableError as error:
        refusal = error
    if refusal is None:
        return "read"
    assert str(path) in str(refusal)
    assert refusal.line is None or refusal.line >= 1
    assert len(str(refusal)) < 2_000
    return str(refusal)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples; each of them leaves it empty."""
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=4 * settings().max_examples)
@given(content=mutated(YAML) | st.binary(max_size=200))
@example(YAML.encode())
@example(b"a: &a [*a, *a, *a]\nb: &b [*a, *a]\nprices: [*b, *b]\n")
@example(b"prices: &x {<<: *x}\n")
@example(b"- " * 20_000)
@example(b"{" * 5_000)
def test_a_yaml_table_is_valid_or_refused(folder: Path, content: bytes) -> None:
    """Mutations and noise, nesting, aliases to aliases, tags: never another error."""
    path = folder / "prices.yaml"
    path.write_bytes(content)
    told = outcome(lambda: PriceTable.load(path), path)
    assert content != YAML.encode() or told == "read"


@settings(max_examples=3 * settings().max_examples)
@given(content=mutated(CSV) | st.binary(max_size=200))
@example(CSV.encode())
@example(CSV.replace("98.32", "9" * 200_000).encode())
def test_a_csv_table_is_valid_or_refused(folder: Path, content: bytes) -> None:
    """Quotes, NULs, doubled headers, long fields, wrong encodings."""
    path = folder / "prices.csv"
    path.write_bytes(content)
    told = outcome(lambda: PriceTable.load(path), path)
    assert content != CSV.encode() or told == "read"


@settings(max_examples=3 * settings().max_examples)
@given(content=st.one_of(*(mutated(text) for text, _ in LISTS.values())) | st.binary(max_size=99))
def test_a_list_of_any_kind_is_read_or_refused_by_each_importer(
    folder: Path, content: bytes
) -> None:
    """Also by those that it was not made for."""
    path = folder / "list.csv"
    path.write_bytes(content)
    for read in (
        lambda: read_skypilot(path, "c").settled(),
        lambda: read_slurm(path).settled(),
        lambda: read_opencost_csv(path).settled(),
        lambda: read_opencost_json(path, ["Tesla T4"]).settled(),
        lambda: read_aws_spot([path], device="Tesla T4", devices=4).settled(),
    ):
        outcome(read, path)


def imported(source: str, content: bytes, folder: Path, options: Sequence[str]) -> None:
    """Import a list beside a table that is there, and look at what became of it."""
    path, into = folder / "list.csv", folder / "table.yaml"
    path.write_bytes(content)
    before = into.read_bytes()
    arguments = ["prices", "import", source, str(path), "--into", str(into)]
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained):
        status = main([*arguments, "--as-of", "2026-05-01", *options])
    after = into.read_bytes()
    into.write_bytes(before)
    assert sorted(entry.name for entry in folder.iterdir()) == ["list.csv", "table.yaml"]
    if status == 0:
        into.write_bytes(after)
        kept = {rate.source for rate in PriceTable.load(into).rates}
        into.write_bytes(before)
        assert "mine" in kept
    else:
        assert status == 2
        assert said.getvalue() == ""
        assert after == before
        (*_, sentence) = complained.getvalue().splitlines()
        assert sentence.startswith("apportion: ")
        assert str(folder) in sentence


@pytest.mark.parametrize("source", LISTS)
def test_an_import_writes_a_whole_table_or_leaves_it(
    source: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By the command itself: exit status 0 and a valid table, or 2, one sentence and no change."""
    folder = tmp_path_factory.mktemp("import")
    text, options = LISTS[source]
    first = VMS.replace("eu", "elsewhere")
    (folder / "list.csv").write_text(first)
    arguments = ["--into", str(folder / "table.yaml"), "--as-of", "2026-05-01"]
    command = ["prices", "import", "skypilot", str(folder / "list.csv"), *arguments]
    assert main([*command, "--cloud", "before"]) == 0
    table = folder / "table.yaml"
    table.write_text(table.read_text().replace("skypilot before", "mine"))

    @settings(max_examples=60)
    @given(content=mutated(text))
    @example(text.encode())
    def each(content: bytes) -> None:
        imported(source, content, folder, options)

    each()
