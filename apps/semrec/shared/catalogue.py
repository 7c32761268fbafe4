"""The catalogue stored in a run: all fields, so that the run can be extended without its data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from semtok import Catalog, read_catalog

from semrec.shared.files import read_json, reading, replacing
from semrec.shared.stage import Facts, Setting, Stage

CATALOGUE_FILE = "items.jsonl.gz"
"""The file that the stage writes."""


def catalogue_stage(setting: Setting[Any]) -> Stage[Catalog]:
    """The stage "catalogue": the items with all their fields, which `extend` reads.

    Dates and decimals are stored as texts, which is how all code reads them. Bytes are left out,
    because nothing reads them.
    """
    id_column = setting.config.columns.catalog_item

    def fill(folder: Path) -> Facts:
        catalog = setting.data.catalog
        with (
            replacing(folder / CATALOGUE_FILE) as beside,
            beside.open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as lines,
        ):
            for item_id, values in zip(catalog.item_ids, _rows(catalog), strict=True):
                lines.write(f"{_json({id_column: item_id, **values})}\n".encode())
        return {"items": len(catalog), "folder": str(catalog.folder.resolve())}

    def load(folder: Path) -> Catalog:
        with reading(folder / CATALOGUE_FILE) as path:
            catalog = read_catalog(path, id_column=id_column)
        return replace(catalog, folder=Path(read_json(folder / "stage.json")["folder"]))

    return setting.stage("catalogue", reads=(), fill=fill, load=load)


def contents(catalog: Catalog) -> list[str]:
    """One text per item with all its non-missing fields, for comparing items."""
    return [
        _json({name: values[name] for name in sorted(values) if values[name] is not None})
        for values in _rows(catalog)
    ]


def _rows(catalog: Catalog) -> Iterator[dict[str, object]]:
    """Yields the fields of each item; None for missing values and bytes."""
    for row in range(len(catalog)):
        fields = {name: values[row] for name, values in catalog.fields.items()}
        yield {name: None if type(value) is bytes else value for name, value in fields.items()}


def _json(values: dict[str, object]) -> str:
    return json.dumps(values, default=lambda value: None if type(value) is bytes else str(value))
