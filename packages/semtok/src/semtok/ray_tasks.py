"""The code that Ray's workers run: a task that reads a shard, and an actor that encodes items."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semtok.catalog import Catalog
from semtok.embedding.kinds import load_source
from semtok.plugin_parts import save_part
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.kinds import load_quantizer
from semtok.quantizers.views import ViewQuantizer
from semtok.reduction import Pca
from semtok.shards import Shard, shard_chunks
from semtok.views import View


def read_chunks(
    tasks: Any, shards: Sequence[Shard], id_column: str, size: int, wanted: Sequence[str]
) -> Iterator[Any]:
    """The chunks of a shard, as Arrow tables of one row, with the fields as JSON.

    Args:
        tasks: A table with one row, which contains the number of a shard.
        shards: All shards.
        id_column: The column that holds the item's id.
        size: Number of items per chunk.
        wanted: The fields that the tables contain.

    Raises:
        CatalogError: As for `shard_chunks`.
    """
    import pyarrow as pa

    number = tasks.column("number")[0].as_py()
    row = 0
    for catalog in shard_chunks(shards[number], id_column, size):
        absent = [None] * len(catalog)
        chunk = {
            "item_ids": catalog.item_ids,
            "fields": {name: list(catalog.fields.get(name, absent)) for name in wanted},
            "folder": str(catalog.folder),
        }
        yield pa.table(
            {
                "number": pa.array([number], pa.int64()),
                "row": pa.array([row], pa.int64()),
                "chunk": pa.array([json.dumps(chunk, default=_as_text)], pa.large_string()),
                "seen": pa.array([list(catalog.fields)], pa.list_(pa.string())),
            }
        )
        row += len(catalog)


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        raise ValueError("fields must hold text, numbers or lists of them, got bytes")
    return str(value)


class Worker:
    """An actor: it loads the models once, and embeds and encodes chunks."""

    def __init__(self, packed: Any, device: str, trust: Collection[str] = ()) -> None:
        import ray

        parts: dict[str, bytes] = ray.get(packed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for inner, data in parts.items():
                (folder / inner).parent.mkdir(parents=True, exist_ok=True)
                (folder / inner).write_bytes(data)
            views = sorted(folder.glob("view-*"))
            self._views = [_load_view(path, device, trust) for path in views]
            quantizer = folder / "quantizer"
            self._quantizer = load_quantizer(quantizer, trust=trust) if quantizer.exists() else None

    def __call__(self, batch: Any) -> Any:
        """The items of a chunk as an Arrow table: their positions, ids, vectors and codes."""
        import pyarrow as pa

        chunk = json.loads(batch.column("chunk")[0].as_py())
        catalog = Catalog(
            item_ids=chunk["item_ids"], fields=chunk["fields"], folder=Path(chunk["folder"])
        )
        parts = []
        for view in self._views:
            assert view.source is not None
            part = view.source.embed(catalog)
            parts.append(part if view.reduction is None else view.reduction.transform(part))
        x = np.concatenate(parts, axis=1, dtype=np.float32)
        first = batch.column("row")[0].as_py()
        columns = {
            "number": pa.repeat(batch.column("number")[0], len(catalog)),
            "row": pa.array(np.arange(first, first + len(catalog))),
            # The fields seen so far, only in the row of the first item.
            "seen": pa.concat_arrays(
                [
                    batch.column("seen").combine_chunks(),
                    pa.nulls(len(catalog) - 1, pa.list_(pa.string())),
                ]
            ),
            "item_id": pa.array(catalog.item_ids, pa.large_string()),
            "x": rows_to_arrow(x),
        }
        if self._quantizer is not None:
            columns["codes"] = rows_to_arrow(self._quantizer.encode(x))
        return pa.table(columns)


def rows_to_arrow(rows: np.ndarray) -> Any:
    """An array of rows as an Arrow array of lists of one length, which share its memory."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def rows_of_arrow(column: Any) -> np.ndarray:
    """The array of rows, from the result of `rows_to_arrow`."""
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
    rows: np.ndarray = flat.reshape(len(column), column.type.list_size)
    return rows


def packed(views: Sequence[View], quantizer: Quantizer | None) -> dict[str, bytes]:
    """The files that an actor needs, by path. Only plain bytes are sent to an actor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, view in enumerate(views):
            assert view.source is not None
            part = folder / f"view-{number:04d}"
            part.mkdir()
            save_part(part / "source", view.source)
            if view.reduction is not None:
                view.reduction.save(part / "reduction")
        if quantizer is not None:
            save_part(folder / "quantizer", quantizer)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def packages(views: Sequence[View], quantizer: Quantizer | None) -> tuple[str, ...]:
    """The packages whose code this process already runs, so an actor may run it too."""
    parts: list[object] = [*(view.source for view in views), quantizer]
    if isinstance(quantizer, ViewQuantizer):
        parts += quantizer.parts
    return tuple({type(part).__module__.partition(".")[0]: None for part in parts})


def _load_view(folder: Path, device: str, trust: Collection[str]) -> View:
    reduction = folder / "reduction"
    return View(
        name=folder.name,
        source=load_source(folder / "source", device=device, trust=trust),
        reduction=Pca.load(reduction) if reduction.exists() else None,
    )
