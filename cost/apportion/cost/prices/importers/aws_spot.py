"""The history of an instance type's spot price, as `aws ec2 describe-spot-price-history` prints it.

One JSON object: `SpotPriceHistory`, a list of entries with `AvailabilityZone`, `InstanceType`,
`ProductDescription`, `SpotPrice` (a decimal string, money per instance and hour) and `Timestamp`.
An entry says since when a price holds in its zone: until the next entry's time, the last one until
a later history says otherwise. The field names are those of the public reference; no file that AWS
wrote has been read with this yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from apportion.core.errors import PriceTableError
from apportion.cost.document import shortened
from apportion.cost.prices.csv_rows import read_csv_text
from apportion.cost.prices.importers.imported import Imported, Offer, price_text
from apportion.cost.prices.importers.json_list import read_json
from apportion.cost.prices.instants import instant_ns, instant_text
from apportion.cost.prices.row_reader import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MAX_BYTES: Final = 64 << 20
PRODUCT: Final = "Linux/UNIX"
_HISTORY: Final = "SpotPriceHistory"
_FIELDS: Final = (
    "AvailabilityZone",
    "InstanceType",
    "ProductDescription",
    "SpotPrice",
    "Timestamp",
)


class _Point(NamedTuple):
    """Since when a price holds in a zone. `entry` of `path` names it in an error."""

    zone: str
    instance_type: str
    product: str
    since_ns: int
    per_hour: str
    path: Path
    entry: int


def read_aws_spot(
    paths: Sequence[Path],
    *,
    device: str,
    devices: int,
    cloud: str = "aws",
    instance_type: str | None = None,
    product: str = PRODUCT,
) -> Imported:
    """Dated offers of one instance type with `devices` of `device`, from all `paths` together.

    Raises:
        PriceTableError: not such a file, several instance types and none chosen, or two prices at
            one time; with the file and the entry.
    """
    imported = Imported(paths[0])
    points = [point for path in paths for point in _points(path, imported)]
    found = sorted({point.instance_type for point in points})
    if instance_type is None and len(found) > 1:
        raise PriceTableError(
            f"has prices of {shortened(', '.join(found))}; say which with --instance-type",
            path=paths[0],
        )
    by_zone: dict[str, list[_Point]] = {}
    for point in points:
        if instance_type not in {None, point.instance_type}:
            imported.left_out[f"instance type {shortened(point.instance_type)}"] += 1
        elif point.product != product:
            imported.left_out[f"product {shortened(point.product)}"] += 1
        else:
            by_zone.setdefault(point.zone, []).append(point)
    for zone, history in by_zone.items():
        match = {
            "cloud": cloud,
            "zone": zone,
            "instance_type": history[0].instance_type,
            "capacity": "spot",
        }
        imported.offers += _offers(history, device, devices, tuple(sorted(match.items())))
    return imported


def _offers(
    history: Iterable[_Point], device: str, devices: int, match: tuple[tuple[str, str], ...]
) -> list[Offer]:
    """One offer for each time at which the price of a zone changed."""
    at: dict[int, _Point] = {}
    for point in history:
        other = at.setdefault(point.since_ns, point)
        if other.per_hour != point.per_hour:
            raise _error(
                point,
                f"{point.per_hour} beside {other.per_hour} at {instant_text(point.since_ns)} in "
                f"{point.zone}; keep the right one",
            )
    changes: list[_Point] = []
    for _, point in sorted(at.items()):
        if not changes or point.per_hour != changes[-1].per_hour:
            changes.append(point)
    times = [instant_text(point.since_ns) for point in changes]
    ends = [*(end for _, end in pairwise(times)), None]
    return [
        Offer(point.entry, device, point.per_hour, devices, "gpu+host", match, since, until)
        for point, since, until in zip(changes, times, ends, strict=True)
    ]


def _points(path: Path, imported: Imported) -> list[_Point]:
    document = read_json(read_csv_text(path, MAX_BYTES), path)
    entries: object = None
    if isinstance(document, dict):
        fields = cast("Mapping[str, object]", document)
        entries = fields.get(_HISTORY)
        if fields.get("NextToken"):
            imported.left_out["the pages after a NextToken: import them together"] += 1
    if not isinstance(entries, list):
        raise PriceTableError(
            f"is no spot price history: there is no list {_HISTORY}", path=path, line=1
        )
    listed = cast("list[object]", entries)
    return [_point(entry, path, number) for number, entry in enumerate(listed)]


def _point(entry: object, path: Path, number: int) -> _Point:
    fields: Mapping[str, object] = {}
    if isinstance(entry, dict):
        fields = cast("Mapping[str, object]", entry)
    texts: list[object] = [fields.get(name) for name in _FIELDS]
    zone, instance_type, product, price, time = (
        text if isinstance(text, str) and text.isprintable() and len(text) <= MAX_TEXT else ""
        for text in texts
    )
    point = _Point(zone, instance_type, product, 0, price, path, number)
    if not all((zone, instance_type, product, price, time)):
        raise _error(point, f"each entry has {', '.join(_FIELDS)}, each a text")
    try:
        since_ns = instant_ns(time)
    except ValueError as failure:
        raise _error(
            point, f"Timestamp {shortened(time)!r} is not a time such as 2026-05-01T12:00:00Z"
        ) from failure
    per_hour = price_text(price)
    if not per_hour:
        raise _error(point, f"SpotPrice {shortened(price)!r} is not money per hour such as 2.95")
    return point._replace(since_ns=since_ns, per_hour=per_hour)


def _error(point: _Point, message: str) -> PriceTableError:
    return PriceTableError(f"{_HISTORY}[{point.entry}]: {message}", path=point.path)
