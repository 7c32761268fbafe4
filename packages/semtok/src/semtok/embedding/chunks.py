"""Embeddings of catalogues of any size: chunk by chunk, into a file, from a cache."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from semtok.catalog import Catalog
from semtok.embedding.cache import EmbeddingCache
from semtok.embedding.contract import EmbeddingSource, Progress
from semtok.storage import replacing_file


def embed_chunks(
    source: EmbeddingSource,
    catalogs: Iterable[Catalog],
    *,
    path: str | Path | None = None,
    cache: str | Path | None = None,
    total: int | None = None,
    progress: Progress | None = None,
) -> Float32[np.ndarray, "items dim"]:
    """The embeddings of the items of some catalogues, one after the other.

    Args:
        source: Makes the embeddings.
        catalogs: The chunks, as of `stream_catalog`; consumed once, one in memory at a time.
        path: A .npy file to write; what is returned is then mapped from it. None holds all
            embeddings in memory.
        cache: A folder that keeps embeddings by content: only what it lacks is embedded, and a
            killed run goes on where it was. See `EmbeddingCache`.
        total: How many items there will be, if that is known.
        progress: Called with the items done, and `total` or, where that is unknown, one more than
            are done until all are.

    Returns:
        One row an item, in the order of the chunks. A mapped file is read-only.

    Raises:
        ValueError: If there are no items, or `path` does not end in .npy.
    """
    if path is not None and Path(path).suffix != ".npy":
        raise ValueError(f"path must end in .npy, got {path}")
    store = None if cache is None else EmbeddingCache(cache, source)
    done = 0

    def report(in_chunk: int, _: int) -> None:
        if progress is not None:
            now = done + in_chunk
            progress(now, max(total or 0, now + 1))

    def parts() -> Iterable[np.ndarray]:
        nonlocal done
        for catalog in catalogs:
            part = (source if store is None else store).embed(catalog, progress=report)
            done += len(catalog)
            yield part

    if path is None:
        held = list(parts())
        if not held:
            raise ValueError("catalogs must hold at least one item, got none")
        embeddings = held[0] if len(held) == 1 else np.concatenate(held)
    else:
        _write_npy(Path(path), parts())
        embeddings = np.load(path, mmap_mode="r")
    if progress is not None:
        progress(done, done)
    return embeddings


def _write_npy(path: Path, parts: Iterable[np.ndarray]) -> None:
    """Writes rows as they come; how many there are is put into the header at the end."""
    rows, dim = 0, 0
    with replacing_file(path) as beside, beside.open("wb") as file:
        for part in parts:
            if rows == 0:
                dim = part.shape[1]
                _write_header(file, rows, dim)
                start = file.tell()
            file.write(np.ascontiguousarray(part, dtype=np.float32).data)
            rows += len(part)
        if rows == 0:
            raise ValueError("catalogs must hold at least one item, got none")
        file.seek(0)
        _write_header(file, rows, dim)
        assert file.tell() == start, "numpy leaves room in the header for any number of rows"
        file.flush()
        os.fsync(file.fileno())


def _write_header(file: BufferedIOBase, rows: int, dim: int) -> None:
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    )
