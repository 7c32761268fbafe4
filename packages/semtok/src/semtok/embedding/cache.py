"""Embeddings kept by content, so that a second run embeds only what is new."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from semtok.catalog import Catalog, CatalogError
from semtok.embedding.contract import EmbeddingSource
from semtok.parts import map_tensors, write_tensors
from semtok.progress import Progress
from semtok.runs import KeyRuns
from semtok.storage import replacing_file, sweep

_LOG = logging.getLogger(__name__)
_SHARD = 4096


class EmbeddingCache:
    """A folder of embeddings, by the fingerprint of their source and the content of their item.

    Embeddings are written in shards, each under another name first, so a killed run loses one
    shard of at most 4,096 items. Items with the same content are embedded once. Several programs
    may use one folder at a time. A broken shard is deleted, with a warning in the log, and its
    items are embedded again.

    Attributes:
        source: Computes the embeddings that the cache lacks.
        folder: The folder with the shards of this source.
    """

    def __init__(self, folder: str | Path, source: EmbeddingSource) -> None:
        self.source = source
        self.folder = Path(folder) / source.fingerprint
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        self._open_all()

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self.folder)!r})"

    def embed(
        self, catalog: Catalog, *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of a catalogue's items: from the cache, and new ones from the source."""
        keys = _keys(self.source.contents(catalog))
        while True:
            new = np.flatnonzero(self._index.find(keys) < 0)
            # If several items have the same content, the first one is embedded.
            new = new[np.sort(np.unique(keys[new], axis=0, return_index=True)[1])]
            done = len(catalog) - len(new)
            if progress is not None and done:
                progress(done, len(catalog))
            for start in range(0, len(new), _SHARD):
                rows = new[start : start + _SHARD]

                def report(in_shard: int, _: int, before: int = done + start) -> None:
                    if progress is not None:
                        progress(before + in_shard, len(catalog))

                part = self.source.embed(catalog.take(rows.tolist()), progress=report)
                self._write(keys[rows], part)
            embeddings = self._read(self._index.find(keys))
            if embeddings is not None:
                return embeddings

    def _open_all(self) -> None:
        self._index = KeyRuns()
        self._shards: list[Path] = []  # not mapped: so many open files may exceed the limit
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                self._open(path)
            except CatalogError as error:
                _drop(path, str(error))

    def _open(self, path: Path) -> None:
        """Adds a shard to the index."""
        tensors = map_tensors(path)
        shapes = {name: (array.dtype.str, array.shape) for name, array in tensors.items()}
        keys = tensors.get("keys", np.empty((0, 2), dtype=np.uint64))
        size, dim = len(keys), self.source.dim
        expected = {
            "keys": ("<u8", (size, 2)),
            "checks": ("<u4", (size,)),
            "vectors": ("<f4", (size, dim)),
        }
        if shapes != expected:
            raise CatalogError(f"{path}: not a shard of embeddings of length {dim}")
        keys = np.array(keys)
        rows = np.flatnonzero(self._index.find(keys) < 0)
        self._index.add(keys[rows], (len(self._shards) << 32) + rows)
        self._shards.append(path)

    def _read(self, places: Int64[np.ndarray, " items"]) -> np.ndarray | None:
        """The vectors at some places; None if a shard was broken, which is then deleted."""
        embeddings = np.empty((len(places), self.source.dim), dtype=np.float32)
        shards, rows = places >> 32, places & 0xFFFFFFFF
        for number in np.unique(shards).tolist():
            path = self._shards[number]
            items = np.flatnonzero(shards == number)
            try:
                tensors = map_tensors(path)
                vectors = tensors["vectors"][rows[items]]
                if not np.array_equal(_checks(vectors), tensors["checks"][rows[items]]):
                    raise CatalogError(f"{path}: embeddings and their checks differ")
            except (CatalogError, FileNotFoundError) as error:  # or another program deleted it
                _drop(path, str(error))
                self._open_all()
                return None
            embeddings[items] = vectors
        return embeddings

    def _write(
        self,
        keys: UInt64[np.ndarray, "items 2"],
        vectors: Float32[np.ndarray, "items dim"],
    ) -> None:
        name = blake2b(keys.tobytes(), digest_size=16).hexdigest()
        path = self.folder / f"{name}.safetensors"
        # Not synced: if a power cut breaks a shard, its items are embedded again.
        with replacing_file(path, durable=False) as beside:
            tensors = {"keys": keys, "checks": _checks(vectors), "vectors": vectors}
            write_tensors(beside, tensors)
        self._open(path)


def _keys(contents: Sequence[str | bytes]) -> UInt64[np.ndarray, "items 2"]:
    keys = bytearray()
    for content in contents:
        data = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
        keys += blake2b(data, digest_size=16).digest()
    return np.frombuffer(keys, dtype="<u8").reshape(-1, 2).copy()


def _checks(vectors: Float32[np.ndarray, "items dim"]) -> np.ndarray:
    """The exclusive or of a vector's bits, which changes if any single bit flips."""
    checks: np.ndarray = np.bitwise_xor.reduce(np.ascontiguousarray(vectors).view("<u4"), axis=1)
    return checks


def _drop(path: Path, reason: str) -> None:
    _LOG.warning("%s: deleted, and its items are embedded again", reason)
    path.unlink(missing_ok=True)
