"""H&M: `transactions_train.csv` and `articles.csv`. Article ids keep their leading zeros.

Images are in a folder `images` next to `articles.csv`: `images/010/0108775015.jpg`. Some articles
have no image.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from evalrec.cells import Column
from evalrec.readers.batches import Batch
from evalrec.readers.blocks import Advance
from evalrec.readers.cleaning import item_record
from evalrec.readers.contract import Format, item_key
from evalrec.readers.delimited import Layout, read_delimited, read_records

_COLUMNS = {
    "user_id": Column(source="customer_id", kind="key"),
    "item_id": Column(source="article_id", kind="key"),
    "timestamp": Column(source="t_dat", kind="time", time_format="%Y-%m-%d"),
}
_CATEGORIES = (
    *("index_group_name", "index_name", "section_name", "product_group_name"),
    *("product_type_name", "garment_group_name"),
)
_FEATURES = ("colour_group_name", "graphical_appearance_name")


def _read_interactions(
    paths: Sequence[Path], *, rated: bool, advance: Advance | None
) -> Iterator[Batch]:
    for path in paths:
        yield from read_delimited(path, _COLUMNS, Layout(), advance=advance)


def _read_items(
    path: Path, keep: Container[str], *, advance: Advance | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, record in read_records(path, Layout(), advance=advance):
        item = item_key(path, line, record, "article_id")
        if item in keep:
            yield (
                line,
                item_record(
                    item,
                    title=record.get("prod_name"),
                    categories=[record.get(name) for name in _CATEGORIES],
                    features=[record.get(name) for name in _FEATURES],
                    description=record.get("detail_desc"),
                ),
            )


def _read_images(
    paths: Sequence[Path], keep: Collection[str], *, advance: Advance | None
) -> dict[str, str]:
    """The image of each article whose image file exists."""
    images: dict[str, str] = {}
    for path in paths:
        for item in keep:
            image = path.parent / "images" / item[:3] / f"{item}.jpg"
            if item not in images and image.is_file():
                images[item] = str(image)
        if advance is not None:
            advance(path.stat().st_size)
    return images


HM = Format(
    name="hm",
    title="H&M",
    interaction_files=("transactions*.csv", "transactions*.csv.gz"),
    item_files=("articles*.csv", "articles*.csv.gz"),
    time_unit="seconds",
    has_ratings=False,
    unique_items=True,
    read_interactions=_read_interactions,
    read_items=_read_items,
    read_images=_read_images,
)
