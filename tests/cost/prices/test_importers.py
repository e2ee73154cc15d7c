"""Price lists are read by header, translated, and refused with file and line."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.errors import PriceTableError
from apportion.cost.prices.importers.imported import Imported
from apportion.cost.prices.importers.opencost import read_opencost_csv, read_opencost_json
from apportion.cost.prices.importers.skypilot import read_skypilot, read_slurm

H100 = "NVIDIA H100 80GB HBM3"
VMS = """\
Region,SpotPrice,GpuInfo,AcceleratorCount,Price,AcceleratorName,InstanceType,AvailabilityZone
eu,10.00,"{'Gpus': [{'Manufacturer': null}], 'x': 1}",8.0,23.60,H100,h100x8,
eu,,,1,2.95,H100,h100x1,eu-a
eu,,,0,0.10,,cpu,
eu,,,,0.10,,cpu,
eu,,,1,0.5,Gaudi,hpu,
eu,,,0.5,0.7,A10,half,
eu,0.4,,1,0,L4,l4,
eu,1.5,,1,2.93391,A100,,eu-a
eu,,,16,46.94248,A100,,eu-a
"""


def written(folder: Path, text: str, name: str = "vms.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_catalogue_is_read_by_its_header(tmp_path: Path) -> None:
    """Prices per instance, spot beside on demand, attached devices without an instance."""
    imported = read_skypilot(written(tmp_path, VMS), "nebius")
    eight = next(o for o in imported.offers if o.devices == 8 and ("capacity", "spot") in o.match)
    assert (eight.device, eight.per_hour, eight.per_device) == (H100, "10", Fraction(5, 4))
    assert eight.covers == "gpu+host"
    assert dict(eight.match) == {
        "capacity": "spot",
        "cloud": "nebius",
        "instance_type": "h100x8",
        "region": "eu",
    }
    attached = [o for o in imported.offers if o.device == "NVIDIA A100-SXM4-40GB"]
    assert {(o.per_hour, o.covers) for o in attached} == {("2.93391", "gpu"), ("1.5", "gpu")}
    assert len({(o.device, o.match) for o in imported.offers}) == len(imported.offers)
    assert imported.left_out == {
        "no accelerator": 2,
        "no spot price": 2,
        "device 'Gaudi' is not one whose NVML name is known here": 1,
        "0.5 of a device: not a whole number": 1,
        "a price of 0: not on offer": 1,
        "a multiple of one attached device": 1,
    }


def test_offers_that_differ_are_left_out(tmp_path: Path) -> None:
    """The same instance twice: equal prices are one offer, different ones none."""
    head, eight, *_ = VMS.splitlines()
    imported = read_skypilot(written(tmp_path, f"{head}\n{eight}\n{eight}"), "c")
    assert [offer.per_hour for offer in imported.settled()] == ["23.6", "10"]
    other = eight.replace("23.60", "25")
    imported = read_skypilot(written(tmp_path, f"{head}\n{eight}\n{other}"), "c")
    assert [offer.per_hour for offer in imported.settled()] == ["10"]
    assert imported.left_out["prices that differ for one device and match"] == 2


def test_a_clusters_own_prices(tmp_path: Path) -> None:
    """SkyPilot's form for Slurm: money per accelerator."""
    text = (
        "Region,Zone,PricePerVCPU,PricePerMemoryGB,AcceleratorName,PricePerAccelerator\n"
        "c1,p1,0.01,0.001,,\nc1,p1,0.01,0.001,A100-80GB,1.10\n"
    )
    (offer,) = read_slurm(written(tmp_path, text)).offers
    assert (offer.device, offer.per_hour, offer.devices) == ("NVIDIA A100-SXM4-80GB", "1.1", 1)
    assert dict(offer.match) == {"region": "c1", "zone": "p1"}


def test_opencost_names_no_device_in_json(tmp_path: Path) -> None:
    """One price for a cluster, for the devices that the person names."""
    path = written(tmp_path, '{"CPU":"0.03","GPU":"0.95","spotGPU":"0.30"}', "p.json")
    offers = read_opencost_json(path, [H100]).offers
    assert [(o.device, o.per_hour, o.match) for o in offers] == [
        (H100, "0.95", (("capacity", "on-demand"),)),
        (H100, "0.3", (("capacity", "spot"),)),
    ]
    with pytest.raises(PriceTableError, match="say --device"):
        read_opencost_json(path, [])


def test_opencosts_csv_has_a_row_for_each_gpu(tmp_path: Path) -> None:
    """Nodes and volumes are counted and left out."""
    text = (
        "EndTimestamp,InstanceID,Region,AssetClass,InstanceIDField,InstanceType,"
        "MarketPriceHourly,Version\n"
        ",node-1,eu,node,spec.providerID,big,5.0,\n"
        ",L40S,eu,gpu,gpu.nvidia.com/class,,0.75,\n"
    )
    imported = read_opencost_csv(written(tmp_path, text))
    (offer,) = imported.offers
    assert (offer.device, offer.per_hour) == ("NVIDIA L40S", "0.75")
    assert imported.left_out == {"asset class node": 1}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "name each column once"),
        ("a,a\n1,2\n", 1, "name each column once"),
        ("Price,Region\n1,eu\n", None, "no AcceleratorName, AcceleratorCount"),
        (VMS.replace("23.60", "free"), 2, "the price 'free' is not money"),
        (VMS.replace("23.60", "-1"), 2, "the price '-1' is not money"),
        (VMS.replace("23.60", "NaN"), 2, "the price 'NaN' is not money"),
        (VMS.replace("23.60", "1e99"), 2, "the price '1e99' is not money"),
        (VMS + "1,2,3,4,5,6,7,8,9\n", 11, "has 9 fields, the header 8"),
        (VMS + '"open\n', 11, "is not CSV"),
    ],
)
def test_a_broken_list_is_refused(
    tmp_path: Path, text: str, line: int | None, message: str
) -> None:
    """With file, line and what is wrong; nothing is taken from it."""
    path = written(tmp_path, text)
    with pytest.raises(PriceTableError, match=message) as refusal:
        read_skypilot(path, "c")
    assert (refusal.value.path, refusal.value.line) == (path, line)


_CELLS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["H100", "1", "8.0", "2.95", "eu", "-1", "1e400", "gpu"]
)


@given(
    header=st.permutations(VMS.splitlines()[0].split(",")),
    rows=st.lists(st.lists(_CELLS, max_size=9), max_size=4),
    raw=st.none() | st.binary(max_size=60),
)
def test_any_bytes_are_offers_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory,
    header: list[str],
    rows: list[list[str]],
    raw: bytes | None,
) -> None:
    """Fuzz of every importer: nothing but our own error comes out."""
    path = tmp_path_factory.mktemp("fuzz") / "list.csv"
    text = "\n".join(",".join(cells) for cells in [header, *rows])
    path.write_bytes(text.encode() if raw is None else raw)
    for read in (
        lambda: read_skypilot(path, "c"),
        lambda: read_slurm(path),
        lambda: read_opencost_csv(path),
        lambda: read_opencost_json(path, [H100]),
    ):
        assert refused_or_read(read, path)


def refused_or_read(read: Callable[[], Imported], path: Path) -> bool:
    """Whether an importer gives offers, or an error that names the file."""
    try:
        read().settled()
    except PriceTableError as refusal:
        return str(path) in str(refusal)
    return True


def test_published_catalogues(tmp_path: Path) -> None:
    """Every cloud's real rows are read, and a price that is known is right."""
    del tmp_path
    repository = Path(__file__).parents[3]
    default = repository.parent / "shared" / "fixtures"
    folder = Path(os.environ.get("APPORTION_FIXTURES", default)) / "prices"
    if not folder.is_dir():
        pytest.skip("no published inputs: set APPORTION_FIXTURES to their folder")
    files = sorted(folder.glob("skypilot_*/*.csv"))
    assert files
    for path in files:
        assert read_skypilot(path, path.stem).settled(), path
    (nebius,) = [path for path in files if path.stem == "nebius"]
    prices = {
        offer.per_device
        for offer in read_skypilot(nebius, "nebius").offers
        if offer.device == H100 and ("capacity", "on-demand") in offer.match
    }
    assert Fraction("2.95") in prices
