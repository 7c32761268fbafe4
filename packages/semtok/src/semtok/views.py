"""Views: ways to look at an item, each with an embedding and, if wanted, codes of its own."""

from __future__ import annotations

from dataclasses import dataclass

from semtok.embedding.contract import EmbeddingSource
from semtok.reduction import Pca


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One way to look at an item: its title, its image, or all that is said of it.

    Attributes:
        name: How it is called.
        source: Makes its embeddings of a catalogue; None if they come from elsewhere.
        reduction: What the embeddings pass before they are quantized.
    """

    name: str
    source: EmbeddingSource | None = None
    reduction: Pca | None = None

    def __repr__(self) -> str:
        source = "vectors made elsewhere" if self.source is None else repr(self.source)
        reduced = "" if self.reduction is None else f", {self.reduction!r}"
        return f"View({self.name!r}, {source}{reduced})"
