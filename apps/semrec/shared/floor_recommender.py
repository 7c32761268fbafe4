"""A floor that answers histories of item ids, as the models do."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from evalrec import Floor
from genrec import Answers, Ranked
from jaxtyping import Int
from torch import Tensor


class FloorRecommender(Answers):
    """Answers histories by a floor; of items with equal scores, popular ones come first.

    The scores are those of the floor. Only their order has a meaning.

    Args:
        floor: The floor.
        item_ids: Id of each item row.
        popularity: The number of interactions of each item.
    """

    def __init__(
        self, floor: Floor, item_ids: Sequence[str], *, popularity: Int[Tensor, " items"]
    ) -> None:
        super().__init__(
            item_ids,
            num_items=len(item_ids),
            history_length=sys.maxsize,
            device=torch.device("cpu"),
            popularity=popularity,
        )
        self.floor = floor
        self.by_popularity = popularity.argsort(descending=True, stable=True)  # [items]

    def rank(
        self, history: Tensor, exclude: Tensor | None, allowed: Tensor | None, top_k: int
    ) -> Ranked:
        """Returns each history's best items by the floor's scores."""
        num_items = len(self.item_ids)
        histories = [row[row < num_items] for row in history.numpy().astype(np.int64)]
        scores = self.floor.score(histories)  # [batch, items]
        permitted = self.permitted(len(histories), exclude, allowed)
        if permitted is not None:
            scores = scores.masked_fill(~permitted, -torch.inf)
        # A stable sort of the items by popularity keeps that order among equals.
        best = scores[:, self.by_popularity].sort(dim=1, descending=True, stable=True)
        values = best.values[:, :top_k]  # [batch, k]
        items = self.by_popularity[best.indices[:, :top_k]]
        return Ranked(items=items.masked_fill(values == -torch.inf, -1), scores=values)
