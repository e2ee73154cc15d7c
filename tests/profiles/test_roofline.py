"""Rooflines: known answers of ncu's units and of matrix products, and a picture that is safe."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.profiles.written import Json, complete, trace_of

from apportion.core.errors import ProfileTraceError
from apportion.profiles.matrix_products import product_flop
from apportion.profiles.ncu_report import by_kernel, is_ncu_report, read_ncu
from apportion.profiles.rank_work import RankWork
from apportion.profiles.roofline import Measured, Roof
from apportion.profiles.roofline_svg import roofline_svg

OP = "smsp__sass_thread_inst_executed_op"
UNITS = {
    "ID": "",
    "Kernel Name": "",
    "device__attribute_display_name": "",
    "gpu__time_duration.sum": "usecond",
    "dram__bytes.sum": "Mbyte",
    f"{OP}_fadd_pred_on.sum": "inst",
    f"{OP}_fmul_pred_on.sum": "inst",
    f"{OP}_ffma_pred_on.sum": "inst",
    "sm__ops_path_tensor_src_fp16_dst_fp32.sum": "",
    "sm__ops_path_tensor_src_int8.sum": "",
    "sm__sass_thread_inst_executed_op_ffma_pred_on.sum.peak_sustained": "inst/cycle",
    "sm__cycles_elapsed.avg.per_second": "cycle/nsecond",
    "dram__bytes.sum.peak_sustained": "Kbyte/cycle",
    "dram__cycles_elapsed.avg.per_second": "cycle/nsecond",
}
A100 = "NVIDIA A100-SXM4-80GB"
VECTOR = ["0", "axpy(float*)", A100, "100.00", "12.5", "1,000", "1,000", "1,000,000"]
TENSOR = ["1", "gemm", A100, "1,000.0", "100", "0", "0", "0"]
PEAKS = ["6,912", "1.41", "1.0", "2.0"]


def report(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        file.write("==PROF== Connected to process 1\n")
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([list(UNITS), list(UNITS.values()), *rows])
    return path


def test_units_and_precisions_of_ncu(tmp_path: Path) -> None:
    """Scaled units come back to seconds and bytes; fma counts twice; peaks are the report's own."""
    path = report(tmp_path / "ncu.csv", [[*VECTOR, "0", "7", *PEAKS]])
    (found,) = read_ncu(path)

    assert is_ncu_report(path)
    assert found.duration_ns == 100_000
    assert found.size_bytes == 12.5e6
    assert found.flop == 1_000 + 1_000 + 2 * 1_000_000
    assert found.roof.flop_per_s == pytest.approx(2 * 6912 * 1.41e9)
    assert found.roof.bytes_per_s == pytest.approx(2e12)
    assert found.bound == "memory"
    assert found.mbu == pytest.approx(12.5e6 / 100e-6 / 2e12)
    assert found.of_attainable == pytest.approx(found.mbu)


def test_tensor_work_is_held_against_the_data_sheet(tmp_path: Path) -> None:
    """Operations of floats in tensor cores count, integers do not; the peak is the device's."""
    (found,) = read_ncu(report(tmp_path / "ncu.csv", [[*TENSOR, "156,000,000,000", "9", *PEAKS]]))

    assert found.flop == 156e9
    assert found.mfu == pytest.approx(0.5)
    assert found.bound == "compute"


def test_launches_of_a_kernel_are_summed(tmp_path: Path) -> None:
    """One row a kernel, the longest first."""
    rows = [[*VECTOR, "0", "7", *PEAKS], [*TENSOR, "1", "9", *PEAKS], [*VECTOR, "0", "7", *PEAKS]]
    found = by_kernel(read_ncu(report(tmp_path / "ncu.csv", rows)))

    assert [(one.name, one.calls, one.duration_ns) for one in found] == [
        ("gemm", 1, 1_000_000),
        ("axpy(float*)", 2, 200_000),
    ]


@pytest.mark.parametrize("word", ["nan", "inf", "-5", "1e400", "n/a", ""])
def test_words_for_not_measured_are_no_numbers(tmp_path: Path, word: str) -> None:
    """What ncu could not measure is absent, not 0 and not infinite."""
    row = [*VECTOR, "0", "7", *PEAKS]
    row[list(UNITS).index("dram__bytes.sum")] = word
    (found,) = read_ncu(report(tmp_path / "ncu.csv", [row]))

    assert (found.size_bytes, found.intensity, found.bound) == (None, None, None)
    row[list(UNITS).index("gpu__time_duration.sum")] = word
    with pytest.raises(ProfileTraceError, match="no row of a kernel"):
        read_ncu(report(tmp_path / "ncu.csv", [row]))


def test_report_without_times_is_refused(tmp_path: Path) -> None:
    """A report of other metrics says with which ones to record."""
    with pytest.raises(ProfileTraceError, match="ncu --set full"):
        read_ncu(report(tmp_path / "ncu.csv", []))


@pytest.mark.parametrize(
    ("operator", "dims", "expected"),
    [
        ("aten::mm", [[2, 3], [3, 5]], 60),
        ("aten::addmm", [[5], [64, 256], [256, 512], [], []], 2 * 64 * 256 * 512),
        ("aten::bmm", [[7, 2, 3], [7, 3, 5]], 420),
        ("aten::baddbmm", [[7, 2, 5], [7, 2, 3], [7, 3, 5]], 420),
        ("aten::mm", None, None),
        ("aten::mm", [[2, 3]], None),
        ("aten::mm", [[2, 3], [4, 5]], None),
        ("aten::mm", [[2, "x"], ["x", 5]], None),
        ("aten::mm", "[[2, 3], [3, 5]]", None),
    ],
)
def test_products_by_their_shapes(operator: str, dims: object, expected: int | None) -> None:
    """2mkn where the shapes say so; nothing is guessed where they do not."""
    assert product_flop(operator, dims) == expected


def test_work_of_a_run() -> None:
    """A run's operations are its products'; what could not be counted is named."""
    shapes: Json = {"Input Dims": [[2, 3], [3, 5]]}
    events = [
        complete("cpu_op", "aten::mm", 0, 10, args=shapes),
        complete("cpu_op", "aten::mm", 20, 10, args=shapes),
        complete("cpu_op", "aten::convolution", 40, 10),
    ]
    work = RankWork.of(trace_of(events))

    assert (work.flop, work.duration_ns) == (120, 50_000)
    assert work.warnings == ("not counted: aten::convolution; its operations are a lower bound",)
    assert RankWork.of(trace_of(events[2:])).flop is None


ROOF = Roof("device <&>", 100e12, 1e12)


def measured(name: str, flop: float | None, size_bytes: float | None) -> Measured:
    return Measured("here", name, 1, 1_000_000, flop, size_bytes, ROOF)


def test_what_is_not_known_stays_unknown() -> None:
    """Without bytes there is no intensity, no bound and no MBU; MFU needs none of them."""
    run = measured("run", 50e9, None)

    assert (run.intensity, run.bound, run.mbu, run.attainable_flop_per_s) == (None,) * 4
    assert run.mfu == pytest.approx(0.5)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_picture_is_well_formed_and_names_are_text(count: int) -> None:
    """Any number of dots draws; a hostile kernel name stays text; nothing is fetched."""
    hostile = '</text><script>alert(1)</script>"&\x00\n'
    dots = [measured(f"{hostile}{n}", 10.0 ** (n % 12), 1e6) for n in range(count)]
    drawn = roofline_svg([*dots, measured("no bytes", 5.0, None), measured("nothing", 0.0, 1.0)])

    root = ET.fromstring(drawn)
    circles = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(circles) == count
    assert not [one for one in root.iter() if one.tag.endswith(("script", "image", "use"))]
    assert "href" not in drawn
