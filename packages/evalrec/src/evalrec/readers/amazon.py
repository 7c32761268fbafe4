"""Amazon product reviews: 2014, 2018 and 2023.

2014 and 2018: `reviews_Beauty_5.json.gz` or `Video_Games_5.json.gz`, one review per line, and
`meta_*.json.gz`, in 2014 one Python literal or one JSON object a line. Of 2018 there are ratings
alone too: `Video_Games.csv`, without a header. 2023: `Beauty.jsonl.gz` and `meta_Beauty.jsonl.gz`,
or the benchmark's CSVs of ids: `Beauty.csv`, or `Beauty.train.csv`, `.valid.csv` and `.test.csv`
(of the last items, or of those after a moment), with or without a column of histories.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from evalrec.cells import Column
from evalrec.interactions import DataError
from evalrec.readers.batches import Batch
from evalrec.readers.blocks import Advance
from evalrec.readers.cleaning import item_record
from evalrec.readers.contract import Format, item_key, with_rating
from evalrec.readers.delimited import Layout, read_delimited, read_header
from evalrec.readers.json_lines import read_json_columns, read_json_records

_LOG = logging.getLogger(__name__)

# The titles of thousands of items of 2018 are the first lines of JavaScript of their pages.
_SCRIPT = re.compile(r"\bvar \w+ ?=|\.getTime\(\)|\bfunction ?\(")

_REVIEWS = {
    "user_id": Column(source="reviewerID", kind="key"),
    "item_id": Column(source="asin", kind="key"),
    "timestamp": Column(source="unixReviewTime", kind="whole"),
}
_RATINGS_2018 = Layout(header=("asin", "reviewerID", "overall", "unixReviewTime"))
_REVIEWS_2023 = {
    "user_id": Column(source="user_id", kind="key"),
    "item_id": Column(source="parent_asin", kind="key"),
    "timestamp": Column(source="timestamp", kind="whole"),
}


def _read_reviews(
    paths: Sequence[Path], *, rated: bool, advance: Advance | None
) -> Iterator[Batch]:
    columns = with_rating(_REVIEWS, "overall", rated)
    for path in paths:
        if _is_csv(path):
            yield from read_delimited(path, columns, _RATINGS_2018, advance=advance)
        else:
            yield from read_json_columns(path, columns, advance=advance)


def _is_csv(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".csv")


def _read_items(
    path: Path,
    keep: Container[str],
    *,
    id_field: str,
    texts: Callable[[dict[str, Any]], dict[str, Any]],
    literal: bool = False,
    other_years: dict[str, str],
    advance: Advance | None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The items of a file of metadata.

    Args:
        path: The file.
        keep: The ids of the wanted items.
        id_field: The field with the id.
        texts: Extracts the texts of an item from its record.
        literal: Whether lines may be Python literals.
        other_years: Fields of other years' files, in which `texts` would find nothing, and the
            formats that read these files.
        advance: Called with the bytes read.

    Raises:
        DataError: If the file is from another year, or cannot be read.
    """
    records = read_json_records(
        path, id_field=id_field, keep=keep, literal=literal, advance=advance
    )
    num_scripts = 0
    for line, record in records:
        for field, name in other_years.items():
            if field in record:
                raise DataError(
                    f"{path}, line {line}: has {field!r}, as no file of this format has: "
                    f"the format {name} reads it"
                )
        item_id = item_key(path, line, record, id_field)
        fields = texts(record)
        if isinstance(fields["title"], str) and _SCRIPT.search(fields["title"]):
            fields["title"] = None
            num_scripts += item_id in keep
        yield line, item_record(item_id, **fields)
    if num_scripts:
        _LOG.warning("%s: %d titles are scripts, which are left out", path, num_scripts)


def _read_images(
    paths: Sequence[Path],
    keep: Collection[str],
    *,
    id_field: str,
    address: Callable[[dict[str, Any]], Any],
    literal: bool = False,
    advance: Advance | None,
) -> dict[str, str]:
    """The address of each item's main image; of an item listed twice, the first one counts."""
    images: dict[str, str] = {}
    for path in paths:
        for line, record in read_json_records(
            path, id_field=id_field, keep=keep, literal=literal, advance=advance
        ):
            item, image = item_key(path, line, record, id_field), address(record)
            if item in keep and isinstance(image, str) and image:
                images.setdefault(item, image)
    return images


def _address_2014(record: dict[str, Any]) -> Any:
    return record.get("imUrl")


def _address_2018(record: dict[str, Any]) -> Any:
    """The first of the large images; else of the small ones."""
    images = record.get("imageURLHighRes") or record.get("imageURL")
    return images[0] if isinstance(images, list) and images else images


def _address_2023(record: dict[str, Any]) -> Any:
    """The largest form of the main image, which is listed first where none is called so."""
    listed = record.get("images")
    images = [image for image in listed if isinstance(image, dict)] if listed else []
    images.sort(key=lambda image: image.get("variant") != "MAIN")
    sizes = [image.get(size) for image in images[:1] for size in ("hi_res", "large", "thumb")]
    return next(filter(None, sizes), None)


def _texts_2014(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in ("title", "brand", "categories", "description")}


def _texts_2018(record: dict[str, Any]) -> dict[str, Any]:
    texts = {name: record.get(name) for name in ("title", "brand", "description")}
    return texts | {"categories": record.get("category"), "features": record.get("feature")}


def _texts_2023(record: dict[str, Any]) -> dict[str, Any]:
    details = record.get("details")
    brand = details.get("Brand") if isinstance(details, dict) else None
    texts = {name: record.get(name) for name in ("title", "features", "description")}
    return texts | {
        "brand": brand or record.get("store"),
        "categories": record.get("categories") or record.get("main_category"),
    }


def _read_interactions_2023(
    paths: Sequence[Path], *, rated: bool, advance: Advance | None
) -> Iterator[Batch]:
    histories = _Histories()
    for path in paths:
        columns = with_rating(_REVIEWS_2023, "rating", rated)
        if not _is_csv(path):
            yield from read_json_columns(path, columns, advance=advance)
            continue
        with_history = "history" in read_header(path, Layout())
        if with_history:
            columns = {**columns, "history": Column(source="history", kind="text")}
        holds_targets = any(part in path.name for part in (".valid.csv", ".test.csv"))
        targets: set[tuple[str, str]] = set()
        for batch in read_delimited(path, columns, Layout(), advance=advance):
            if holds_targets:
                _require_new_targets(batch, targets)
            if with_history:
                histories.add(batch)
            yield batch
    if histories.longest:
        yield histories.batch(paths[-1])


def _require_new_targets(batch: Batch, targets: set[tuple[str, str]]) -> None:
    """Refuses a target that is listed twice: the benchmark's files hold no repeated pair."""
    for row, (user, item) in enumerate(batch.frame.select("user_id", "item_id").iter_rows()):
        if (user, item) in targets:
            raise DataError(
                f"{batch.place(row)}: user {user!r} has the target {item!r} twice, "
                "but a file of targets holds each once"
            )
        targets.add((user, item))


class _Histories:
    """The longest history of each user, and the time of the user's first row.

    The rows of train, valid and test together are the sequence. Items that only a history names
    (if a part is not passed) have no time and come before the first row.
    """

    def __init__(self) -> None:
        self.longest: dict[str, str] = {}
        self.first: dict[str, int] = {}

    def add(self, batch: Batch) -> None:
        """Add the histories of a batch."""
        longest = (
            batch.frame.with_columns(pl.col("history").str.len_bytes().alias("length"))
            .group_by("user_id")
            .agg(pl.col("history").get(pl.col("length").arg_max()), pl.col("timestamp").min())
        )
        for user, history, time in longest.select("user_id", "history", "timestamp").iter_rows():
            if len(history) > len(self.longest.get(user, "")):
                self.longest[user] = history
            self.first[user] = min(time, self.first.get(user, time))

    def batch(self, path: Path) -> Batch:
        """The items that the histories name, oldest first."""
        users = list(self.longest)
        frame = pl.DataFrame(
            {
                "user_id": users,
                "item_id": [self.longest[user] for user in users],
                "timestamp": [self.first[user] for user in users],
            },
            schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64},
        )
        frame = frame.with_columns(pl.col("item_id").str.split(" ")).explode("item_id")
        frame = frame.filter(pl.col("item_id") != "")
        places = range(frame.height)
        return Batch(path=path, frame=frame, places=places, before=True, only_missing=True)


AMAZON_2014 = Format(
    name="amazon2014",
    title="Amazon 2014",
    interaction_files=("reviews_*.json", "reviews_*.json.gz"),
    item_files=("meta_*.json", "meta_*.json.gz"),
    time_unit="seconds",
    has_ratings=True,
    unique_items=False,
    read_interactions=_read_reviews,
    read_items=partial(
        _read_items,
        id_field="asin",
        texts=_texts_2014,
        literal=True,
        other_years={"category": "amazon2018", "parent_asin": "amazon2023"},
    ),
    read_images=partial(_read_images, id_field="asin", address=_address_2014, literal=True),
)

AMAZON_2018 = Format(
    name="amazon2018",
    title="Amazon 2018",
    interaction_files=("*.json", "*.json.gz", "*.csv", "*.csv.gz"),
    item_files=("meta_*.json", "meta_*.json.gz"),
    time_unit="seconds",
    has_ratings=True,
    unique_items=False,
    read_interactions=_read_reviews,
    read_items=partial(
        _read_items,
        id_field="asin",
        texts=_texts_2018,
        other_years={"categories": "amazon2014", "parent_asin": "amazon2023"},
    ),
    read_images=partial(_read_images, id_field="asin", address=_address_2018),
)

AMAZON_2023 = Format(
    name="amazon2023",
    title="Amazon 2023",
    interaction_files=("*.jsonl", "*.jsonl.gz", "*.csv", "*.csv.gz"),
    item_files=("meta_*.jsonl", "meta_*.jsonl.gz"),
    time_unit="milliseconds",
    has_ratings=True,
    unique_items=False,
    read_interactions=_read_interactions_2023,
    read_items=partial(
        _read_items,
        id_field="parent_asin",
        texts=_texts_2023,
        other_years={"category": "amazon2018", "salesRank": "amazon2014"},
    ),
    read_images=partial(_read_images, id_field="parent_asin", address=_address_2023),
)
