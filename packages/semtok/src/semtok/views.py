"""Views: parts of an item's description, each with an embedding and possibly its own codes."""

from __future__ import annotations

from dataclasses import dataclass

from semtok.embedding.contract import EmbeddingSource
from semtok.reduction import Pca


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One view of an item: its title, its image, or all of its fields together.

    Attributes:
        name: The name of the view.
        source: Computes the embeddings of a catalogue; None if they come from elsewhere.
        reduction: Applied to the embeddings before they are quantized.
    """

    name: str
    source: EmbeddingSource | None = None
    reduction: Pca | None = None

    def __repr__(self) -> str:
        source = "vectors made elsewhere" if self.source is None else repr(self.source)
        reduced = "" if self.reduction is None else f", {self.reduction!r}"
        return f"View({self.name!r}, {source}{reduced})"
