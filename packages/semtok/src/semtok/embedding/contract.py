"""What every embedding source can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from semtok.catalog import Catalog, CatalogError
from semtok.storage import read_part

Progress = Callable[[int, int], None]
"""Called with how many items are done, and of how many."""


@runtime_checkable
class EmbeddingSource(Protocol):
    """Turns a catalogue into one vector an item, row i for item i."""

    def embed(
        self, catalog: Catalog, *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of a catalogue's items."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes what `load_source` needs into a new folder."""
        ...


def load_source(folder: str | Path) -> EmbeddingSource:
    """Loads whichever embedding source a folder holds.

    Raises:
        CatalogError: If it holds none that this version knows.
    """
    from semtok.embedding.lsa import LsaEmbedding
    from semtok.embedding.text import TextEmbedding

    config, _ = read_part(folder)
    if config.get("kind") == LsaEmbedding.kind:
        return LsaEmbedding.load(folder)
    if config.get("kind") == TextEmbedding.kind:
        return TextEmbedding.load(folder)
    raise CatalogError(f"{folder}: unknown kind of embedding source {config.get('kind')!r}")
