"""The items of a plan: the lines of a catalogue, or the texts of items in the orders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalrec.cells import key
from evalrec.importing.orders import OrderCounts
from evalrec.importing.plan import TablePlan
from evalrec.importing.sources import read_rows, unit_of
from evalrec.interactions import DataError
from evalrec.readers.blocks import Advance
from evalrec.readers.cleaning import item_record
from evalrec.readers.images import image_from

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Items:
    """The items of a catalogue.

    Attributes:
        records: The lines of `items.jsonl` by item, in the order of the file.
        num_doubles: Lines of an item that already had an earlier line.
        num_incomplete: Lines without an id, which were left out.
    """

    records: dict[str, Record]
    num_doubles: int
    num_incomplete: int


def read_items(plan: TablePlan, out: Path, *, advance: Advance | None = None) -> Items:
    """Read the catalogue of a plan.

    Args:
        plan: The plan; it must have a catalogue.
        out: The output folder: relative paths of images will start there.
        advance: Called with the bytes read.

    Raises:
        DataError: If the file is malformed, a line lacks an id, or two lines describe one item
            differently; the message names file and line.
    """
    source, columns = plan.catalogue, plan.item_columns
    if source is None:
        raise ValueError("plan must have a catalogue")
    (id_column,) = columns["item_id"]
    records: dict[str, Record] = {}
    lines: dict[str, int] = {}
    num_doubles = num_incomplete = 0
    for line, row in read_rows(source, id_column, advance=advance):
        if plan.options.incomplete == "drop" and row.get(id_column) in (None, ""):
            num_incomplete += 1
            continue
        place = f"{source.path}, {unit_of(source)} {line}"
        try:
            item = key(row.get(id_column), id_column)
        except ValueError as error:
            raise DataError(f"{place}: {error}") from error
        values = {
            meaning: [row.get(name) for name in names]
            for meaning, names in columns.items()
            if meaning != "item_id"
        }
        record = _record(item, values, plan, source.path.parent, out)
        if item not in records:
            records[item], lines[item] = record, line
        elif records[item] == record or plan.preset.contradictions == "first":
            num_doubles += 1
        else:
            raise DataError(
                f"{place}: item {item!r} is that of {unit_of(source)} {lines[item]}, but is "
                "described otherwise: leave one line per item"
            )
    if not records:
        raise DataError(f"{source.path} holds no items")
    return Items(records=records, num_doubles=num_doubles, num_incomplete=num_incomplete)


def items_of_orders(plan: TablePlan, counts: OrderCounts, out: Path) -> dict[str, Record]:
    """The records of items that the orders themselves describe."""
    return {
        item: _record(item, values, plan, plan.orders.path.parent, out)
        for item, values in counts.texts.items()
    }


def _record(
    item: str, values: Mapping[str, Iterable[Any]], plan: TablePlan, folder: Path, out: Path
) -> Record:
    """A line of `items.jsonl`; empty fields are left out."""
    fields = {
        meaning: [value for value in texts if value is not None and value != ""]
        for meaning, texts in values.items()
    }
    split = plan.options.split_categories
    categories = fields.get("categories", [])
    if split is not None:
        categories = [
            part
            for value in categories
            for part in (value.split(split) if isinstance(value, str) else [value])
        ]
    record = item_record(
        item,
        title=fields.get("title"),
        brand=fields.get("brand"),
        categories=categories,
        description=fields.get("description"),
    )
    for image in fields.get("image", []):
        record["image"] = image_from(str(image), folder, out)
    return record
