"""Embeddings of catalogues of any size: chunk by chunk, into a file, from a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from semtok.catalog import Catalog
from semtok.embedding.cache import EmbeddingCache
from semtok.embedding.contract import EmbeddingSource
from semtok.parts import write_npy_header
from semtok.progress import Progress
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
    """The embeddings of the items of some catalogues, one catalogue after the other.

    Args:
        source: Computes the embeddings.
        catalogs: Chunks, as from `stream_catalog`; consumed once, one in memory at a time.
        path: A .npy file to write; the result is then mapped from it. None keeps all embeddings
            in memory.
        cache: A folder that keeps embeddings by content: only what it lacks is embedded, and a
            killed run continues where it was. See `EmbeddingCache`.
        total: How many items there will be, if known.
        progress: Called with the number of items done and of all items: `total`, or 0 if that is
            unknown.

    Returns:
        One row per item, in the order of the chunks. A mapped file is read-only.

    Raises:
        ValueError: If there are no items, or `path` does not end in .npy.
    """
    if path is not None and Path(path).suffix != ".npy":
        raise ValueError(f"path must end in .npy, got {path}")
    store = None if cache is None else EmbeddingCache(cache, source)
    done = 0

    def report(in_chunk: int, _: int) -> None:
        if progress is not None:
            progress(done + in_chunk, total or 0)

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
        with writing_npy(Path(path)) as write:
            for part in parts():
                write(part)
        embeddings = np.load(path, mmap_mode="r")
    if progress is not None:
        progress(done, done)
    return embeddings


@contextmanager
def writing_npy(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends rows to a .npy file of float32.

    The header gets the number of rows at the end. The file appears complete or not at all.

    Raises:
        ValueError: At the end, if nothing was written, not even a part without rows.
    """
    rows, dim, start = 0, 0, 0
    with replacing_file(path) as beside, beside.open("wb") as file:

        def write(part: np.ndarray) -> None:
            nonlocal rows, dim, start
            if start == 0:
                dim = part.shape[1]
                start = _write_header(file, 0, dim)
            file.write(np.ascontiguousarray(part, dtype=np.float32).data)
            rows += len(part)

        yield write
        if start == 0:
            raise ValueError("catalogs must hold at least one item, got none")
        file.seek(0)
        end = _write_header(file, rows, dim)
        assert end == start, "numpy leaves room in the header for any number of rows"


def _write_header(file: BufferedIOBase, rows: int, dim: int) -> int:
    write_npy_header(file, (rows, dim))
    return file.tell()
