"""Where a backbone's item vectors come from, and what all backbones have in common."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.item_checks import check_rows
from genrec.similarity import Similarity, check_similarity, item_scores


class ItemTable(nn.Module):
    """One learned vector an item, plus a linear projection of fixed features if there are any.

    Any module whose `forward()` returns [items, dim] can take its place in a backbone: a modality
    adaption layer over text embeddings, for instance, or the sum of both.

    Args:
        num_items: Size of the catalogue.
        dim: Width of the vectors.
        features: Content embeddings, row i for item i; kept in the weights, not trained.

    Raises:
        ValueError: Sizes are not positive, or `features` has another number of rows.
    """

    features: Tensor | None

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        features: Float[Tensor, "items feature_dim"] | None = None,
    ) -> None:
        super().__init__()
        if num_items < 1 or dim < 1:
            raise ValueError(f"num_items and dim must be at least 1, got {num_items} and {dim}")
        self.ids = nn.Parameter(torch.empty(num_items, dim))
        nn.init.normal_(self.ids, std=0.02)
        self.register_buffer("features", features)
        if features is not None:
            if len(features) != num_items:
                raise ValueError(f"features must have {num_items} rows, got {len(features)}")
            self.projection = nn.Linear(features.shape[1], dim)

    def forward(self) -> Float[Tensor, "items dim"]:
        """Returns the vectors of all items."""
        if self.features is None:
            return self.ids
        vectors: Tensor = self.ids + self.projection(self.features)
        return vectors


class Backbone(nn.Module):
    """What every backbone offers: item vectors, and scores of the whole catalogue.

    Within a training step the item vectors are wanted twice, by the model and by the loss: compute
    them once, `vectors = model.item_vectors()`, and give them to both.

    Args:
        num_items: Size of the catalogue; also the padding in histories.
        dim: Width of the item vectors.
        item_encoder: Module whose `forward()` returns [num_items, dim]; an `ItemTable` by default.
    """

    def __init__(self, num_items: int, *, dim: int, item_encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.num_items = num_items
        self.dim = dim
        self.item_encoder = ItemTable(num_items, dim) if item_encoder is None else item_encoder

    def item_vectors(self) -> Float[Tensor, "items dim"]:
        """Returns the table that scores, from the item encoder.

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
        """Returns the vectors of the items in `history`, zero at padding, and where padding is.

        Raises:
            ValueError: On a CPU: there is neither an item row nor padding in some place.
        """
        if history.device.type == "cpu":  # any other would be waited for
            check_rows("history", history, self.num_items)
        vectors = self.item_vectors() if item_vectors is None else item_vectors
        padding = history == self.num_items
        found = F.embedding(history.masked_fill(padding, 0), vectors)
        return found.masked_fill(padding[..., None], 0.0), padding

    def score(self, history: Int[Tensor, "batch length"]) -> Float[Tensor, "batch items"]:
        """Scores the whole catalogue for each history; higher is better."""
        raise NotImplementedError


class StateBackbone(Backbone):
    """A backbone that sums a history up in one state, compared with each item's vector.

    Args:
        num_items: Size of the catalogue; also the padding in histories.
        dim: Width of states and item vectors.
        item_encoder: Module whose `forward()` returns [num_items, dim]; an `ItemTable` by default.
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity; a loss on the states must be given the same two.
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
        """Returns the state after each item of the history, for the next item of each."""
        raise NotImplementedError

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state after the newest item of each history; zeros where there is none."""
        return self.newest(self(history, item_vectors), history)

    def newest(
        self, states: Float[Tensor, "batch length dim"], history: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """Returns, of states in all places, that of the newest item of each history."""
        place = (history != self.num_items).sum(1).sub(1).clamp(min=0)
        return states[torch.arange(len(states), device=states.device), place]

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
    """Refuses sizes below 1.

    Raises:
        ValueError: One is.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
