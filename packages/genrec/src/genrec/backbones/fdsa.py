"""FDSA: self-attention over items and over their features (Zhang et al., IJCAI 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbones.items import FeatureTables, ItemTable, StateBackbone
from genrec.backbones.sasrec import SASRec
from genrec.config_checks import Similarity


class FDSA(StateBackbone):
    """Two stacks of self-attention: one reads the items of a history, the other their features.

    The vector of an item's features is their weighted sum, with a softmax over the features in each
    dimension (the paper's vanilla attention layer). A linear layer joins the last states of both
    stacks (its fully-connected layer); its output is compared with the vectors of the items.

    Differs: layers and positions are those of this library's `SASRec`, and any loss of
    `genrec.losses` replaces the binary cross-entropy.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        num_layers: Self-attention layers of each stack.
        num_heads: Heads in each layer.
        history_length: Largest number of items in a history.
        dropout: As in `SASRec`.
        feedforward_dim: Inner width of the feed-forward parts; by default 4 times `dim`.
        item_encoder: The items and their features, as `FeatureTables`; by default all are learned,
            with two features per item.
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity.

    Raises:
        TypeError: `item_encoder` is no `FeatureTables`.
        ValueError: An option is out of range.
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
            ids, *features = (ItemTable(num_items, dim) for _ in range(3))
            item_encoder = FeatureTables(ids, features)
        if not isinstance(item_encoder, FeatureTables):
            raise TypeError(
                f"item_encoder must be FeatureTables, got {type(item_encoder).__name__}"
            )
        super().__init__(
            num_items,
            dim=dim,
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
        # The stacks have no item tables: the vectors are passed to each.
        self.items = SASRec(num_items, item_encoder=nn.Identity(), **sizes)  # type: ignore[arg-type]
        self.features = SASRec(num_items, item_encoder=nn.Identity(), **sizes)  # type: ignore[arg-type]
        self.weigh = nn.Linear(dim, dim)
        self.output = nn.Linear(2 * dim, dim)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state after each item of the history, zero at padding.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        vectors = self.item_vectors() if item_vectors is None else item_vectors
        parts = self.items(history, vectors), self.features(history, self.feature_vectors())
        states: Tensor = self.output(torch.cat(parts, dim=-1))
        return states.masked_fill((history == self.num_items)[..., None], 0.0)

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state after the newest item of each history, at less cost than `forward`.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        vectors = self.item_vectors() if item_vectors is None else item_vectors
        parts = (
            self.items.last_state(history, vectors),
            self.features.last_state(history, self.feature_vectors()),
        )
        state: Tensor = self.output(torch.cat(parts, dim=-1))
        return state

    def feature_vectors(self) -> Float[Tensor, "items dim"]:
        """Returns one vector per item, from all its features."""
        features = self.item_encoder.features()  # [items, features, dim]
        vectors: Tensor = (self.weigh(features).softmax(dim=1) * features).sum(dim=1)
        return vectors
