"""Embeddings made elsewhere: .npy, .safetensors or .parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from semtok.catalog import CatalogError
from semtok.storage import read_tensors

STORED_SUFFIXES = (".npy", ".safetensors", ".parquet")


def read_embeddings(
    path: str | Path, item_ids: Sequence[str], *, id_column: str = "item_id"
) -> Float32[np.ndarray, "items dim"]:
    """Reads one embedding an item, in the order of `item_ids`.

    Args:
        path: A .npy or .safetensors file (one tensor) whose row i is that of item i, or a .parquet
            file with an id column and either one column of lists or one number a column.
        item_ids: The items.
        id_column: The id column of a parquet file.

    Raises:
        CatalogError: If the file is missing, broken or of an unknown kind, has not exactly one
            row an item, or holds a number that is not finite; the sentence names file and row.
    """
    path = Path(path)
    if path.suffix not in STORED_SUFFIXES:
        raise CatalogError(f"{path}: must end in one of {', '.join(STORED_SUFFIXES)}")
    if not path.is_file():
        raise CatalogError(f"{path}: no such file")
    if path.suffix == ".parquet":
        array = _read_parquet(path, item_ids, id_column)
    else:
        array = _read_npy(path) if path.suffix == ".npy" else _read_safetensors(path)
        if array.ndim != 2 or array.shape[1] == 0:
            raise CatalogError(f"{path}: must have the shape [items, dim], got {list(array.shape)}")
        if len(array) != len(item_ids):
            raise CatalogError(f"{path}: has {len(array)} rows, the catalogue {len(item_ids)}")
    if array.dtype.kind not in "fiu":
        raise CatalogError(f"{path}: must hold numbers, got {array.dtype}")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        raise CatalogError(f"{path}, row {row} (item {item_ids[row]!r}): holds NaN or infinity")
    with np.errstate(over="ignore"):
        embeddings = np.ascontiguousarray(array, dtype=np.float32)
    large = ~np.isfinite(embeddings).all(axis=1)
    if large.any():
        raise CatalogError(f"{path}, row {int(large.argmax())}: holds a number beyond float32")
    return embeddings


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else "unreadable"
        raise CatalogError(f"{path}: not a readable .npy file of numbers ({reason})") from None
    if not isinstance(array, np.ndarray):
        raise CatalogError(f"{path}: must be a single array")
    return array


def _read_safetensors(path: Path) -> np.ndarray:
    tensors = read_tensors(path)
    if len(tensors) != 1:
        names = ", ".join(sorted(tensors)) or "none"
        raise CatalogError(f"{path}: must hold exactly one tensor, got {names}")
    return next(iter(tensors.values()))


def _read_parquet(path: Path, item_ids: Sequence[str], id_column: str) -> np.ndarray:
    from semtok.catalog import read_catalog

    table = read_catalog(path, id_column=id_column)
    known = set(item_ids)
    rows = {}
    for row, item_id in enumerate(table.item_ids):
        if item_id not in known:
            raise CatalogError(f"{path}, row {row + 1}: item {item_id!r} is not in the catalogue")
        rows[item_id] = row
    missing = next((item_id for item_id in item_ids if item_id not in rows), None)
    if missing is not None:
        raise CatalogError(f"{path}: has no row for item {missing!r}")
    columns = list(table.fields.values())
    if not columns:
        raise CatalogError(f"{path}: has no column beside {id_column!r}")
    vectors: list[object] = (
        list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))
    )
    first = vectors[0]
    if not isinstance(first, list | tuple) or not first:
        raise CatalogError(f"{path}, row 1: must hold a list of numbers or several number columns")
    for row, vector in enumerate(vectors, start=1):
        if not isinstance(vector, list | tuple) or len(vector) != len(first):
            raise CatalogError(f"{path}, row {row}: must hold {len(first)} numbers, as row 1")
        if not all(type(number) in (int, float) for number in vector):
            raise CatalogError(f"{path}, row {row}: must hold numbers only")
    return np.array(vectors, dtype=np.float64)[[rows[item_id] for item_id in item_ids]]
