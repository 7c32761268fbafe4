"""Readers of interactions and items: the native folder and the public raw formats."""

from evalrec.cells import Column
from evalrec.readers.batches import Batch, batch_of_rows
from evalrec.readers.collect import Read
from evalrec.readers.contract import Format
from evalrec.readers.formats import FORMATS, read_catalogue, read_raw
from evalrec.readers.native import (
    find_interactions,
    find_items,
    read_interactions,
    read_item_ids,
)

__all__ = [
    "FORMATS",
    "Batch",
    "Column",
    "Format",
    "Read",
    "batch_of_rows",
    "find_interactions",
    "find_items",
    "read_catalogue",
    "read_interactions",
    "read_item_ids",
    "read_raw",
]
