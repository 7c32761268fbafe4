"""What sequence models read and rank: id embeddings, stored content, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from genrec import ItemTable
from jaxtyping import Float, Int
from torch import Tensor, nn

Items = Literal["ids", "content", "both"]


class ContentTable(nn.Module):
    """Stored content embeddings through a linear layer: one vector an item.

    Args:
        features: Content embeddings, row i for item i; not trained.
        dim: Width of the vectors.
    """

    features: Tensor

    def __init__(self, features: Float[Tensor, "items feature_dim"], dim: int) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.projection = nn.Linear(features.shape[1], dim)
        nn.init.normal_(self.projection.weight, std=0.02 / features.std().item())
        nn.init.zeros_(self.projection.bias)

    def forward(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """The vectors of some items, or of all."""
        vectors: Tensor = self.projection(self.features if rows is None else self.features[rows])
        return vectors


class Concatenated(nn.Module):
    """Several tables side by side, through a linear layer: TSSR's SASRec-Hybrid."""

    def __init__(self, tables: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)
        self.projection = nn.Linear(len(self.tables) * dim, dim)

    def forward(self) -> Float[Tensor, "items dim"]:
        """The vectors of all items."""
        vectors: Tensor = self.projection(torch.cat([table() for table in self.tables], dim=1))
        return vectors


def item_table(items: Items, contents: Sequence[Float[Tensor, "items _"]], dim: int) -> nn.Module:
    """The item vectors of a model on ids, on content, or on both concatenated.

    Args:
        items: Which.
        contents: Content embeddings, one array a modality.
        dim: Width of the vectors.
    """
    if items not in get_args(Items):
        raise ValueError(f"items must be one of {get_args(Items)}, got {items!r}")
    ids = [ItemTable(len(contents[0]), dim)] if items != "content" else []
    tables = [*ids, *(ContentTable(content, dim) for content in contents if items != "ids")]
    return tables[0] if len(tables) == 1 else Concatenated(tables, dim)
