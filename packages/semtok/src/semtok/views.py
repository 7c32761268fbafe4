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
