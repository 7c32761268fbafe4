"""The item vectors of backbones, and the base classes of all backbones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.config_checks import Similarity, check_similarity
from genrec.sequences import Batch
from genrec.similarity import item_scores

ItemInput = Literal["ids", "content", "both"]
"""The vector of an item in a model: learned for its id, from its stored content, or both."""


class ItemTable(nn.Module):
    """One learned vector per item.

    Any module whose `forward()` returns [items, dim] can replace it in a backbone, for instance
    stored content (`ContentTable`) or several tables joined (`ConcatenatedTables`).

    Args:
        num_items: Size of the catalogue.
        dim: Width of the vectors.

    Raises:
        ValueError: A size is not positive.
    """

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        if num_items < 1 or dim < 1:
            raise ValueError(f"num_items and dim must be at least 1, got {num_items} and {dim}")
        self.ids = nn.Parameter(torch.empty(num_items, dim))
        nn.init.normal_(self.ids, std=0.02)

    def forward(self) -> Float[Tensor, "items dim"]:
        """Returns the vectors of all items."""
        return self.ids


class ContentTable(nn.Module):
    """A learned linear layer over stored content embeddings: one vector per item.

    The layer is initialised so that the vectors have the same spread as those of an `ItemTable`,
    for any scale of the features. The features are not in the state dict: they can be large, and
    the caller has them; a model folder stores them in their own file.

    Args:
        features: Content embeddings, row i for item i; not trained.
        dim: Width of the vectors.

    Raises:
        ValueError: `dim` is not positive, or the features are not finite or all alike.
    """

    features: Tensor

    def __init__(self, features: Float[Tensor, "items feature_dim"], dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        spread = features.std().item()
        if not 0 < spread < float("inf"):
            raise ValueError(
                f"features must be finite and not all alike, got standard deviation {spread}"
            )
        self.register_buffer("features", features, persistent=False)
        self.projection = nn.Linear(features.shape[1], dim)
        nn.init.normal_(self.projection.weight, std=0.02 / spread)
        nn.init.zeros_(self.projection.bias)

    def forward(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """Returns the vectors of these items, or of all items."""
        vectors: Tensor = self.projection(self.features if rows is None else self.features[rows])
        return vectors


class ConcatenatedTables(nn.Module):
    """A linear layer over several concatenated item tables: TSSR's SASRec-Hybrid.

    Args:
        tables: Modules whose `forward()` returns [items, dim].
        dim: Width of the vectors of each table, and of the joined ones.

    Raises:
        ValueError: There is no table, or `dim` is not positive.
    """

    def __init__(self, tables: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        if not tables or dim < 1:
            raise ValueError(
                f"tables must be at least one and dim at least 1, got {len(tables)} and {dim}"
            )
        self.tables = nn.ModuleList(tables)
        self.projection = nn.Linear(len(self.tables) * dim, dim)

    def forward(self) -> Float[Tensor, "items dim"]:
        """Returns the vectors of all items."""
        joined = torch.cat([table() for table in self.tables], dim=1)  # [items, tables * dim]
        vectors: Tensor = self.projection(joined)
        return vectors


class FeatureTables(nn.Module):
    """Item vectors, and one vector for each feature of an item, for FDSA.

    Args:
        ids: Module whose `forward()` returns the vectors of all items, [items, dim].
        features: For each feature a module of the same kind.

    Raises:
        ValueError: There is no feature.
    """

    def __init__(self, ids: nn.Module, features: Sequence[nn.Module]) -> None:
        super().__init__()
        if not features:
            raise ValueError("features must be at least one table, got none")
        self.tables = nn.ModuleList([ids, *features])

    def forward(self) -> Float[Tensor, "items dim"]:
        """Returns the vectors of all items, by which they are scored."""
        vectors: Tensor = self.tables[0]()
        return vectors

    def features(self) -> Float[Tensor, "items features dim"]:
        """Returns the vectors of all features of all items."""
        return torch.stack([table() for table in list(self.tables)[1:]], dim=1)


def item_table(
    item_input: ItemInput, contents: Sequence[Float[Tensor, "items _"]], dim: int
) -> nn.Module:
    """Returns the item vectors of a model on ids, on content, or on both concatenated.

    Args:
        item_input: "ids" for an `ItemTable`, "content" for the content embeddings, "both" for all
            of them; several tables are concatenated, the ids first.
        contents: Content embeddings, row i for item i, one array per modality. With "ids" only
            their number of rows is used.
        dim: Width of the vectors.

    Raises:
        ValueError: `item_input` is none of these, there is no content, or the arrays have different
            numbers of rows.
    """
    if item_input not in get_args(ItemInput):
        raise ValueError(f"item_input must be one of {get_args(ItemInput)}, got {item_input!r}")
    counts = [len(content) for content in contents]
    if len(set(counts)) != 1:
        raise ValueError(
            "contents must be at least one array, each with one row per item, got numbers of rows "
            f"{counts}"
        )
    ids = [ItemTable(counts[0], dim)] if item_input != "content" else []
    from_content = [ContentTable(content, dim) for content in contents if item_input != "ids"]
    tables: list[nn.Module] = [*ids, *from_content]
    return tables[0] if len(tables) == 1 else ConcatenatedTables(tables, dim)


class Backbone(nn.Module):
    """The base class of all backbones: item vectors, and scores of the whole catalogue.

    A training step uses the item vectors twice, in the model and in the loss: compute them once,
    `vectors = model.item_vectors()`, and pass them to both.

    Args:
        num_items: Size of the catalogue; also the padding in histories.
        dim: Width of the item vectors.
        item_encoder: Module whose `forward()` returns [num_items, dim]; an `ItemTable` by default.

    Attributes:
        settings: The other constructor arguments by name, as values that JSON can hold. Together
            with the item encoder and the weights they are enough to make the model again.
    """

    settings: dict[str, Any]

    def __init__(self, num_items: int, *, dim: int, item_encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.num_items = num_items
        self.dim = dim
        self.item_encoder = ItemTable(num_items, dim) if item_encoder is None else item_encoder

    def item_vectors(self) -> Float[Tensor, "items dim"]:
        """Returns the vectors by which items are scored, from the item encoder.

        Raises:
            ValueError: The encoder's table is not [num_items, dim].
        """
        vectors: Tensor = self.item_encoder()
        if vectors.shape != (self.num_items, self.dim):
            raise ValueError(
                f"item_encoder must return [{self.num_items}, {self.dim}], "
                f"got {list(vectors.shape)}"
            )
        return vectors

    def look_up(
        self,
        history: Int[Tensor, "*batch"],
        item_vectors: Float[Tensor, "items dim"] | None,
    ) -> tuple[Float[Tensor, "*batch dim"], Bool[Tensor, "*batch"]]:
        """Returns the vectors of the items in `history`, zero at padding, and True at padding."""
        vectors = self.item_vectors() if item_vectors is None else item_vectors
        padding = history == self.num_items
        looked_up = F.embedding(history.masked_fill(padding, 0), vectors)
        return looked_up.masked_fill(padding[..., None], 0.0), padding

    def score(self, history: Int[Tensor, "batch length"]) -> Float[Tensor, "batch items"]:
        """Scores the whole catalogue for each history; higher is better."""
        raise NotImplementedError


class StateBackbone(Backbone):
    """A backbone that computes one state from a history and compares it with each item's vector.

    Args:
        num_items: Size of the catalogue; also the padding in histories.
        dim: Width of states and item vectors.
        item_encoder: Module whose `forward()` returns [num_items, dim]; an `ItemTable` by default.
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity; pass the same similarity and temperature to a loss.

    Raises:
        ValueError: The similarity or the temperature is out of range.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(num_items, dim=dim, item_encoder=item_encoder)
        check_similarity(similarity, temperature)
        self.similarity: Similarity = similarity
        self.temperature = temperature

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state after each item of the history, which predicts the next item."""
        raise NotImplementedError

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state after the newest item of each history; zeros for an empty history."""
        return self.newest(self(history, item_vectors), history)

    def next_item_loss(
        self,
        states: Float[Tensor, "*batch dim"],
        item_vectors: Float[Tensor, "items dim"],
        targets: Int[Tensor, "*batch"],
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, ""]:
        """Returns the loss of the next items; by default `loss(states, item_vectors, targets)`.

        Args:
            states: The model's states of each history, or of each of its positions.
            item_vectors: `item_vectors()`.
            targets: Rows of the next items, `num_items` for padding.
            loss: Any loss of states, item vectors and targets.
        """
        return loss(states, item_vectors, targets)

    def further_losses(
        self, batch: Batch, item_vectors: Float[Tensor, "items dim"]
    ) -> dict[str, Tensor]:
        """Returns the weighted loss terms of its training in addition to the next-item loss."""
        return {}

    def newest(
        self, states: Float[Tensor, "batch length dim"], history: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """Selects, from the states at all positions, that of the newest item of each history."""
        place = (history != self.num_items).sum(1).sub(1).clamp(min=0)
        return states[torch.arange(states.shape[0], device=states.device), place]

    def compare(
        self, states: Float[Tensor, "batch dim"], item_vectors: Float[Tensor, "items dim"]
    ) -> Float[Tensor, "batch items"]:
        """Returns the scores of all items for each state."""
        return item_scores(
            states, item_vectors, similarity=self.similarity, temperature=self.temperature
        )

    def score(self, history: Int[Tensor, "batch length"]) -> Float[Tensor, "batch items"]:
        """Scores the whole catalogue for each history; higher is better."""
        vectors = self.item_vectors()
        return self.compare(self.last_state(history, vectors), vectors)


def check_sizes(**sizes: int) -> None:
    """Checks sizes by name.

    Raises:
        ValueError: A size is below 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
