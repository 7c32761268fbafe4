"""Embeddings made elsewhere: .npy, .safetensors or .parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float32

from semtok.catalog import Catalog, CatalogError, item_id_of
from semtok.parts import map_npy, map_tensors, read_part, refusing, string, write_part
from semtok.phrases import counted
from semtok.progress import Progress

if TYPE_CHECKING:
    import polars as pl

ARRAY_SUFFIXES = (".npy", ".safetensors")
"""Suffixes of files whose rows have no ids."""

STORED_SUFFIXES = (*ARRAY_SUFFIXES, ".parquet")
"""Suffixes of all files of embeddings."""

_CHUNK = 65_536


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredEmbedding:
    """Looks up embeddings by the ids of items.

    Attributes:
        path: The file with the embeddings.
        item_ids: The items that have an embedding.
        vectors: Their embeddings, mapped from the file if its format allows this.
        id_column: The id column, if the file has ids.
    """

    kind: ClassVar[str] = "stored"

    path: Path
    item_ids: Sequence[str]
    vectors: Float32[np.ndarray, "stored dim"]
    id_column: str | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        item_ids: Sequence[str] | None = None,
        id_column: str = "item_id",
    ) -> StoredEmbedding:
        """Opens a file of embeddings.

        Args:
            path: As for `read_embeddings`.
            item_ids: The item of each row of a .npy or .safetensors file; a .parquet file has ids.
            id_column: The id column of a .parquet file.

        Raises:
            CatalogError: If the file is not what `read_embeddings` takes.
            ValueError: If `item_ids` is missing, or has no effect.
        """
        path = Path(path)
        if path.suffix != ".parquet":
            if item_ids is None:
                raise ValueError(f"item_ids must be given: the rows of {path} have no ids")
            return cls(path=path, item_ids=item_ids, vectors=read_embeddings(path, item_ids))
        if item_ids is not None:
            raise ValueError(f"item_ids must be left out: {path} has ids of its own")
        _check_path(path)
        file_ids: list[str] = []
        parts = []
        for ids, part in _parquet_parts(path, id_column):
            file_ids += ids
            parts.append(_converted(path, part, ids, len(file_ids) - len(ids) + 1))
        if not file_ids:
            raise CatalogError(f"{path}: holds no items")
        vectors = np.concatenate(parts)
        return cls(path=path, item_ids=file_ids, vectors=vectors, id_column=id_column)

    def __repr__(self) -> str:
        items = counted(len(self.item_ids), "item")
        return f"StoredEmbedding({str(self.path)!r}, {items}, dim {self.dim})"

    @property
    def fingerprint(self) -> str:
        """The same for every file of vectors of this length: the content is the vector itself."""
        return f"{self.kind}-{self.dim}"

    @property
    def dim(self) -> int:
        """The length of the embeddings."""
        return int(self.vectors.shape[1])

    def contents(self, catalog: Catalog) -> list[bytes]:
        """The bytes of each vector."""
        return [row.tobytes() for row in self.embed(catalog)]

    def embed(
        self, catalog: Catalog, *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of a catalogue's items.

        Raises:
            CatalogError: If an item has no embedding.
        """
        rows = self._rows
        missing = next((item_id for item_id in catalog.item_ids if item_id not in rows), None)
        if missing is not None:
            raise CatalogError(f"{self.path}: has no row for item {missing!r}")
        embeddings = np.asarray(self.vectors[[rows[item_id] for item_id in catalog.item_ids]])
        if progress is not None:
            progress(len(catalog), len(catalog))
        return embeddings

    def save(self, folder: str | Path) -> None:
        """Writes config.json into a new folder: the path of the file, not its content.

        Raises:
            ValueError: If the file has no ids: its rows mean nothing without the catalogue.
        """
        if self.id_column is None:
            raise ValueError(
                f"{self.path}: has no ids, so it cannot be looked up later; keep the embeddings "
                "in a parquet file with an id column"
            )
        path = str(self.path.absolute())
        write_part(folder, {"kind": self.kind, "path": path, "id_column": self.id_column})

    @classmethod
    def load(cls, folder: str | Path) -> StoredEmbedding:
        """Reads what `save` wrote, and the file of embeddings that it names.

        Raises:
            CatalogError: If the folder or that file is absent, corrupt or of a newer format.
        """
        config, _ = read_part(folder, cls.kind)
        with refusing(folder):
            return cls.open(string(config, "path"), id_column=string(config, "id_column"))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}


def read_embeddings(
    path: str | Path, item_ids: Sequence[str], *, id_column: str = "item_id"
) -> Float32[np.ndarray, "items dim"]:
    """Reads one embedding per item, in the order of `item_ids`.

    Args:
        path: A .npy or .safetensors file (one tensor) whose row i belongs to item i; or a .parquet
            file with an id column and either one column of lists or one number per column.
        item_ids: The items.
        id_column: The id column of a parquet file.

    Returns:
        The embeddings, mapped from the file and read-only if it is a .npy or .safetensors file of
        float32; in memory otherwise.

    Raises:
        CatalogError: If the file is missing, broken or of an unknown format, does not have exactly
            one row per item, or holds a number that is not finite. The message names file and row.
    """
    path = Path(path)
    _check_path(path)
    if path.suffix == ".parquet":
        return _read_parquet(path, item_ids, id_column)
    array = map_npy(path) if path.suffix == ".npy" else _read_safetensors(path)
    if array.ndim != 2 or array.shape[1] == 0:
        raise CatalogError(f"{path}: must have the shape [items, dim], got {list(array.shape)}")
    if len(array) != len(item_ids):
        raise CatalogError(f"{path}: has {len(array)} rows for {len(item_ids)} item ids")
    return _converted(path, array, item_ids, 0)


def _check_path(path: Path) -> None:
    if path.suffix not in STORED_SUFFIXES:
        raise CatalogError(f"{path}: must end in one of {', '.join(STORED_SUFFIXES)}")
    if not path.is_file():
        raise CatalogError(f"{path}: no such file")


def _converted(
    path: Path, array: np.ndarray, item_ids: Sequence[str], first: int
) -> Float32[np.ndarray, "rows dim"]:
    """The array as finite float32; its row 0 is row `first` of the file, counted from 1."""
    if array.dtype.kind not in "fiu":
        raise CatalogError(f"{path}: must hold numbers, got {array.dtype}")
    is_ready = array.dtype == np.float32 and array.flags.c_contiguous
    embeddings = array if is_ready else np.empty(array.shape, dtype=np.float32)
    for start in range(0, len(array), _CHUNK):
        part = array[start : start + _CHUNK]
        finite = np.isfinite(part).all(axis=1)
        if not finite.all():
            row = start + int(finite.argmin())
            place = f"row {first + row} (item {item_ids[row]!r})"
            raise CatalogError(f"{path}, {place}: holds NaN or infinity")
        if not is_ready:
            with np.errstate(over="ignore"):
                embeddings[start : start + _CHUNK] = part
            large = ~np.isfinite(embeddings[start : start + _CHUNK]).all(axis=1)
            if large.any():
                row = first + start + int(large.argmax())
                raise CatalogError(f"{path}, row {row}: holds a number beyond float32")
    return embeddings


def _read_safetensors(path: Path) -> np.ndarray:
    tensors = map_tensors(path)
    if len(tensors) != 1:
        names = ", ".join(sorted(tensors)) or "none"
        raise CatalogError(f"{path}: must hold exactly one tensor, got {names}")
    return next(iter(tensors.values()))


def _read_parquet(
    path: Path, item_ids: Sequence[str], id_column: str
) -> Float32[np.ndarray, "items dim"]:
    rows = {item_id: row for row, item_id in enumerate(item_ids)}
    embeddings = np.empty((0, 0), dtype=np.float32)
    filled = np.zeros(len(item_ids), dtype=bool)
    number = 0
    for ids, part in _parquet_parts(path, id_column):
        unknown = next((row for row, item_id in enumerate(ids) if item_id not in rows), None)
        if unknown is not None:
            raise CatalogError(
                f"{path}, row {number + unknown + 1}: item {ids[unknown]!r} is not in the catalogue"
            )
        if number == 0:
            embeddings = np.empty((len(item_ids), part.shape[1]), dtype=np.float32)
        places = [rows[item_id] for item_id in ids]
        embeddings[places] = _converted(path, part, ids, number + 1)
        filled[places] = True
        number += len(ids)
    if not filled.all():
        missing = item_ids[int(filled.argmin())]
        raise CatalogError(f"{path}: has no row for item {missing!r}")
    return embeddings


def _parquet_parts(path: Path, id_column: str) -> Iterator[tuple[list[str], np.ndarray]]:
    """The ids and numbers of a parquet file, part by part; no id comes twice."""
    import polars as pl

    first_row: dict[str, int] = {}
    dim = None
    try:
        with path.open("rb"):  # a missing permission is reported as such
            pass
        for frame in pl.scan_parquet(path, glob=False).collect_batches(chunk_size=_CHUNK):
            if frame.is_empty():
                continue
            names = frame.columns
            if id_column not in names:
                raise CatalogError(f"{path}: no column {id_column!r} (columns: {', '.join(names)})")
            ids = []
            start = len(first_row)
            for number, value in enumerate(frame[id_column], start=start + 1):
                item_id = item_id_of({id_column: value}, id_column, f"{path}, row {number}")
                if first_row.setdefault(item_id, number) != number:
                    raise CatalogError(
                        f"{path}, row {number}: item id {item_id!r} is already that of row "
                        f"{first_row[item_id]}"
                    )
                ids.append(item_id)
            part = _numbers(path, frame.drop(id_column), id_column, start, dim)
            dim = part.shape[1]
            yield ids, part
    except PermissionError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise CatalogError(f"{path}: not a readable parquet file ({reason})") from None


def _numbers(
    path: Path, frame: pl.DataFrame, id_column: str, start: int, dim: int | None
) -> np.ndarray:
    """The vectors of some rows; the first is row `start` of the file, counted from 0."""
    import polars as pl

    if frame.width == 0:
        raise CatalogError(f"{path}: has no column beside {id_column!r}")
    if frame.width > 1:
        series = frame.select(pl.concat_list(pl.all())).to_series() if _numeric(frame) else None
    else:
        series = frame.to_series()
        if isinstance(series.dtype, pl.Array):
            series = series.arr.to_list()
        if not isinstance(series.dtype, pl.List):
            raise CatalogError(
                f"{path}, row {start + 1}: must hold a list of numbers or several number columns"
            )
        lengths = series.list.len().fill_null(0).to_numpy()
        dim = int(lengths[0]) if dim is None else dim
        if dim == 0:
            raise CatalogError(f"{path}, row {start + 1}: must hold a list of numbers, got none")
        if (lengths != dim).any():
            row = start + int((lengths != dim).argmax()) + 1
            raise CatalogError(f"{path}, row {row}: must hold {dim} numbers, as row 1")
        if not series.dtype.inner.is_numeric():
            series = None
    if series is None:
        raise CatalogError(f"{path}, row {start + 1}: must hold numbers only")
    flat = series.explode()
    if flat.null_count():
        row = start + int(flat.is_null().arg_max() or 0) * len(series) // len(flat) + 1
        raise CatalogError(f"{path}, row {row}: must hold numbers only")
    return flat.to_numpy().reshape(len(series), -1)


def _numeric(frame: pl.DataFrame) -> bool:
    return all(dtype.is_numeric() for dtype in frame.dtypes)
