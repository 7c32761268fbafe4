"""Yelp: `yelp_academic_dataset_review.json` and `yelp_academic_dataset_business.json`.

Photos are a separate download: `photos.json`, and next to it a folder `photos` with the images.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from evalrec.cells import Column
from evalrec.readers.batches import Batch
from evalrec.readers.blocks import Advance
from evalrec.readers.cleaning import item_record
from evalrec.readers.contract import Format, item_key, with_rating
from evalrec.readers.json_lines import read_json_columns, read_json_records

_COLUMNS = {
    "user_id": Column(source="user_id", kind="key"),
    "item_id": Column(source="business_id", kind="key"),
    "timestamp": Column(source="date", kind="time", time_format="%Y-%m-%d %H:%M:%S"),
}


def _read_interactions(
    paths: Sequence[Path], *, rated: bool, advance: Advance | None
) -> Iterator[Batch]:
    for path in paths:
        yield from read_json_columns(path, with_rating(_COLUMNS, "stars", rated), advance=advance)


def _read_items(
    path: Path, keep: Container[str], *, advance: Advance | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, record in read_json_records(path, id_field="business_id", keep=keep, advance=advance):
        categories = record.get("categories")
        yield (
            line,
            item_record(
                item_key(path, line, record, "business_id"),
                title=record.get("name"),
                categories=categories.split(", ") if isinstance(categories, str) else None,
                features=[record.get("city"), record.get("state")],
            ),
        )


def _read_images(
    paths: Sequence[Path], keep: Collection[str], *, advance: Advance | None
) -> dict[str, str]:
    """The first photo of each business, as the file lists them."""
    images: dict[str, str] = {}
    for path in paths:
        for line, record in read_json_records(
            path, id_field="business_id", keep=keep, advance=advance
        ):
            item = item_key(path, line, record, "business_id")
            if item in keep and item not in images:
                photo = item_key(path, line, record, "photo_id")
                images[item] = str(path.parent / "photos" / f"{photo}.jpg")
    return images


YELP = Format(
    name="yelp",
    title="Yelp",
    interaction_files=("*review*.json", "*review*.json.gz", "*review*.jsonl*"),
    item_files=("*business*.json", "*business*.json.gz", "*business*.jsonl*"),
    time_unit="seconds",
    has_ratings=True,
    unique_items=True,
    read_interactions=_read_interactions,
    read_items=_read_items,
    image_files=("*photo*.json", "*photo*.json.gz", "*photo*.jsonl*"),
    read_images=_read_images,
)
