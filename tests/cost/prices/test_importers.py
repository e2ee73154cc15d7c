"""Price lists are read by header, translated, and refused with file and line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from apportion.core.errors import PriceTableError
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
        "'0.5' of a device: not a number of whole ones": 1,
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
    assert imported.left_out == {"asset class 'node'": 1}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "name each column once"),
        ("a,a\n1,2\n", 1, "name each column once"),
        ("Price,Region\n1,eu\n", 1, "no column AcceleratorName, AcceleratorCount"),
        (VMS.replace("23.60", "free"), 2, "the price 'free' is not money"),
        (VMS.replace("23.60", "-1"), 2, "the price '-1' is not money"),
        (VMS.replace("23.60", "NaN"), 2, "the price 'NaN' is not money"),
        (VMS.replace("23.60", "1e99"), 2, "the price '1e99' is not money"),
        (VMS.replace("23.60", "1e-999999999"), 2, "the price '1e-999999999' is not money"),
        (VMS.replace("23.60", "0.0000000000001"), 2, "is not money"),
        (VMS.replace("23.60", "1_000"), 2, "the price '1_000' is not money"),
        (VMS.replace("0.5,Gaudi", "x,Gaudi"), 6, "the price 'x' is not money"),
        (VMS.replace("h100x8", '"a\nb"'), 2, "instance_type 'a.nb' is not one line"),
        (VMS.replace("eu,,,1,2.95", '"a\nb",,,1,free'), 3, "the price 'free'"),
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


def test_a_template_that_nobody_filled_in_offers_nothing(tmp_path: Path) -> None:
    """SkyPilot ships its pricing.csv for Slurm with one row of nothing: that is no other file."""
    text = (
        "Region,Zone,PricePerVCPU,PricePerMemoryGB,AcceleratorName,PricePerAccelerator\n"
        ",,0.0,0.0,,0.0\n"
    )
    imported = read_slurm(written(tmp_path, text))
    assert (imported.offers, imported.left_out) == ([], {"no accelerator": 1})


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"GPU": "0.9"', 1, "is not JSON"),
        ('{"GPU": "0.9",\n "GPU": "0.8"}', None, "the key 'GPU' is there twice"),
        ('{"CPU": 1,\n "GPU": "much"}', 2, "the price 'much' is not money"),
        ('{"GPU": NaN}', None, "NaN is no number"),
        ('{"GPU": 1e400}', 1, "the price '1E.400' is not money"),
        ('{"GPU": true}', 1, "the price 'True' is not money"),
        ('{"GPU": {"a": 1}}', 1, "is not money"),
        ("[" * 100_000, None, "is no price list: nested"),
        ("[]", None, "has neither GPU nor spotGPU"),
        ('{"CPU": "1"}', None, "has neither GPU nor spotGPU"),
    ],
)
def test_broken_json_is_refused(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    """Numbers as they are written, each key once, and never one price for another."""
    path = written(tmp_path, text, "prices.json")
    with pytest.raises(PriceTableError, match=message) as refusal:
        read_opencost_json(path, [H100])
    assert (refusal.value.path, refusal.value.line) == (path, line)


def test_a_device_that_a_person_names_is_taken_as_named(tmp_path: Path) -> None:
    """A GPU that is younger than our list has a price, too: by NVML's name of it."""
    path = written(tmp_path, '{"GPU": 0.95}', "p.json")
    imported = read_opencost_json(path, ["NVIDIA Z1000"])
    assert [(o.device, o.per_hour) for o in imported.offers] == [("NVIDIA Z1000", "0.95")]
    assert imported.left_out == {"no spotGPU": 1}


def test_published_catalogues(published_prices: Path) -> None:
    """Every cloud's real rows are read, and a price that is known is right."""
    files = sorted(published_prices.glob("skypilot_*/*.csv"))
    assert files
    for path in files:
        imported = read_skypilot(path, path.stem)
        assert imported.settled(), path
        assert not [reason for reason in imported.left_out if "NVML name" in reason], path
    (nebius,) = [path for path in files if path.stem == "nebius"]
    prices = {
        offer.per_device
        for offer in read_skypilot(nebius, "nebius").offers
        if offer.device == H100 and ("capacity", "on-demand") in offer.match
    }
    assert Fraction("2.95") in prices
