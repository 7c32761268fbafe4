"""EnsRec: a model of ids and a model of texts, their scores summed (Collins et al., 2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbones.items import FeatureTables, ItemTable, StateBackbone
from genrec.backbones.sasrec import SASRec
from genrec.config_checks import Similarity
from genrec.similarity import unit


class EnsRec(StateBackbone):
    """Two SASRecs, one on ids and one on texts, whose scores are added.

    The two models share no weights, and each has its own loss. Their states are concatenated, as
    are their item vectors. The dot product of the concatenated vectors is the sum of both scores.
    With the cosine, each part has length 1, so that the sum is that of both cosines.

    Differs: both models are trained in one call of `fit`. They therefore stop at the same epoch,
    and their gradients are clipped together. Both scores have equal weight.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors of either model.
        num_layers: Self-attention layers of each model.
        num_heads: Heads in each layer.
        history_length: Largest number of items in a history.
        dropout: As in `SASRec`.
        feedforward_dim: Inner width of the feed-forward parts; by default 4 times `dim`.
        item_encoder: The items' ids and texts, as `FeatureTables` of one feature; by default both
            are learned.
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity.

    Raises:
        TypeError: `item_encoder` is no `FeatureTables`.
        ValueError: `item_encoder` has more than one feature, or an option is out of range.
    """

    item_encoder: FeatureTables

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        history_length: int = 50,
        dropout: float = 0.2,
        feedforward_dim: int | None = None,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        if item_encoder is None:
            item_encoder = FeatureTables(ItemTable(num_items, dim), [ItemTable(num_items, dim)])
        if not isinstance(item_encoder, FeatureTables):
            raise TypeError(
                f"item_encoder must be FeatureTables, got {type(item_encoder).__name__}"
            )
        if len(item_encoder.tables) != 2:
            raise ValueError(
                f"item_encoder must have one feature, got {len(item_encoder.tables) - 1}"
            )
        super().__init__(
            num_items,
            dim=2 * dim,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        sizes = {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "history_length": history_length,
            "dropout": dropout,
            "feedforward_dim": feedforward_dim,
        }
        self.settings = {**sizes, "similarity": similarity, "temperature": temperature}
        # The models have no item tables: the vectors are passed to each.
        self.models = nn.ModuleList(
            SASRec(num_items, item_encoder=nn.Identity(), **sizes)  # type: ignore[arg-type]
            for _ in range(2)
        )

    def item_vectors(self) -> Float[Tensor, "items dim"]:
        """Returns the concatenated vectors of both models, scaled to length 1 for the cosine."""
        ids, texts = (table() for table in self.item_encoder.tables)
        return self._side_by_side(ids, texts)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the states of both models after each item of the history, zero at padding.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        ids, texts = (
            model(history, table())
            for model, table in zip(self.models, self.item_encoder.tables, strict=True)
        )
        return self._side_by_side(ids, texts)

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns both states after the newest item of each history, at less cost than `forward`.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        ids, texts = (
            cast("SASRec", model).last_state(history, table())
            for model, table in zip(self.models, self.item_encoder.tables, strict=True)
        )
        return self._side_by_side(ids, texts)

    def next_item_loss(
        self,
        states: Float[Tensor, "*batch dim"],
        item_vectors: Float[Tensor, "items dim"],
        targets: Int[Tensor, "*batch"],
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, ""]:
        """Returns the sum of the two models' losses."""
        sides = zip(states.chunk(2, dim=-1), item_vectors.chunk(2, dim=-1), strict=True)
        return torch.stack([loss(state, vectors, targets) for state, vectors in sides]).sum()

    def compare(
        self, states: Float[Tensor, "batch dim"], item_vectors: Float[Tensor, "items dim"]
    ) -> Float[Tensor, "batch items"]:
        """Returns the sum of both models' scores of all items for each state."""
        scores: Tensor = states @ item_vectors.T / self.temperature
        return scores

    def _side_by_side(self, ids: Tensor, texts: Tensor) -> Tensor:
        """Returns both concatenated, each scaled to length 1 if the similarity is the cosine."""
        parts = (unit(ids), unit(texts)) if self.similarity == "cosine" else (ids, texts)
        return torch.cat(parts, dim=-1)
