"""A spot price history becomes dated rows: each price until the next one's time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apportion.core.errors import PriceTableError
from apportion.cost.prices.importers.aws_spot import read_aws_spot
from apportion.cost.prices.importers.imported import Imported

H100 = "NVIDIA H100 80GB HBM3"


def point(time: str, price: str, zone: str = "us-east-1a", **more: object) -> dict[str, object]:
    """One entry as AWS names its fields."""
    return {
        "AvailabilityZone": zone,
        "InstanceType": "p5.48xlarge",
        "ProductDescription": "Linux/UNIX",
        "SpotPrice": price,
        "Timestamp": f"2026-05-{time}",
        **more,
    }


def written(folder: Path, *points: object, name: str = "spot.json", **more: object) -> Path:
    """A file as the command line prints it."""
    path = folder / name
    path.write_text(json.dumps({"SpotPriceHistory": points, **more}, indent=4))
    return path


def read(*paths: Path, instance_type: str | None = None, product: str = "Linux/UNIX") -> Imported:
    """All of `paths`, of an instance with eight H100s."""
    return read_aws_spot(
        paths, device=H100, devices=8, instance_type=instance_type, product=product
    )


def spells(imported: Imported) -> list[tuple[str, str, str | None, str | None]]:
    """Zone, price, since and until of each offer."""
    offers = imported.settled()
    return [(dict(o.match)["zone"], o.per_hour, o.since, o.until) for o in offers]


def test_each_price_holds_until_the_next(tmp_path: Path) -> None:
    """In any order, by zone, in whatever form the time has; the last one is open."""
    path = written(
        tmp_path,
        point("03T10:00:00.000Z", "30.000000"),
        point("01T00:00:00+00:00", "20.50"),
        point("02T02:00:00+02:00", "7", zone="us-east-1b"),
        point("02T12:30:15Z", "40"),
    )
    imported = read(path)
    assert spells(imported) == [
        ("us-east-1a", "20.5", "2026-05-01T00:00:00Z", "2026-05-02T12:30:15Z"),
        ("us-east-1a", "40", "2026-05-02T12:30:15Z", "2026-05-03T10:00:00Z"),
        ("us-east-1a", "30", "2026-05-03T10:00:00Z", None),
        ("us-east-1b", "7", "2026-05-02T00:00:00Z", None),
    ]
    (first, *_) = imported.offers
    assert (first.device, first.devices, first.covers) == (H100, 8, "gpu+host")
    assert dict(first.match) == {
        "capacity": "spot",
        "cloud": "aws",
        "instance_type": "p5.48xlarge",
        "zone": "us-east-1a",
    }
    assert imported.left_out == {}


def test_a_price_that_is_only_said_again_is_no_change(tmp_path: Path) -> None:
    """Neighbouring entries of one price are one row."""
    path = written(tmp_path, *(point(f"0{day}T00:00:00Z", "20") for day in (1, 2, 3)))
    assert spells(read(path)) == [("us-east-1a", "20", "2026-05-01T00:00:00Z", None)]


def test_several_files_are_one_history(tmp_path: Path) -> None:
    """Last month's file and this month's, with what both have: AWS keeps ninety days."""
    old = written(tmp_path, point("01T00:00:00Z", "20"), point("02T00:00:00Z", "30"))
    new = written(
        tmp_path, point("02T00:00:00Z", "30"), point("03T00:00:00Z", "25"), name="new.json"
    )
    assert spells(read(new, old)) == spells(read(old, new))
    assert [price for _, price, _, _ in spells(read(old, new))] == ["20", "30", "25"]


def test_what_is_of_another_kind_is_left_out_and_counted(tmp_path: Path) -> None:
    """One instance type and one product; that a page is missing is said."""
    path = written(
        tmp_path,
        point("01T00:00:00Z", "20"),
        point("01T00:00:00Z", "99", ProductDescription="Windows"),
        point("01T00:00:00Z", "1", InstanceType="g6.xlarge"),
        NextToken="abc",
    )
    imported = read(path, instance_type="p5.48xlarge")
    assert spells(imported) == [("us-east-1a", "20", "2026-05-01T00:00:00Z", None)]
    assert imported.left_out == {
        "product Windows": 1,
        "instance type g6.xlarge": 1,
        "the pages after a NextToken: import them together": 1,
    }
    windows = read(path, instance_type="p5.48xlarge", product="Windows")
    assert [price for _, price, _, _ in spells(windows)] == ["99"]
    with pytest.raises(PriceTableError, match=r"prices of g6\.xlarge, p5\.48xlarge; say which"):
        read(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([point("01T00:00:00Z", "20"), point("01T00:00:00Z", "21")], r"\[1\]: 21 beside 20 at"),
        (
            [
                point("01T00:00:00Z", "20"),
                point("02T00:00:00Z", "20"),
                point("02T00:00:00Z", "21"),
            ],
            r"\[2\]: 21 beside 20 at",
        ),
        ([point("01T00:00:00Z", "0")], r"\[0\]: SpotPrice '0' is not money"),
        ([point("01T00:00:00Z", "-1")], "SpotPrice '-1' is not money"),
        ([point("01T00:00:00Z", "x" * 500)], "each entry has AvailabilityZone"),
        ([point("01T00:00:00Z", "1", zone="a\nb")], "each entry has AvailabilityZone"),
        ([point("01T00:00:00Z", "1", Timestamp=1_777_593_600)], "each entry has"),
        ([point("01T00:00:00Z", "1", Timestamp="yesterday")], "'yesterday' is not a time"),
        ([point("01T00:00:00Z", "1", Timestamp="9999-12-31T23:00:00-14:00")], "is not a time"),
        (["p5"], "each entry has"),
    ],
)
def test_a_broken_history_is_refused(tmp_path: Path, entries: list[object], message: str) -> None:
    """With the file and the entry; a point that is left out would stretch the price before it."""
    path = written(tmp_path, *entries)
    with pytest.raises(PriceTableError, match=message) as refusal:
        read(path)
    assert refusal.value.path == path


@pytest.mark.parametrize("text", ["[]", "{}", '{"SpotPriceHistory": {}}', "", "{"])
def test_another_file_is_no_history(tmp_path: Path, text: str) -> None:
    """Named as what it is not."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(PriceTableError, match=r"is no spot price history|is not JSON"):
        read(path)
