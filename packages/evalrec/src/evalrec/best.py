"""The best items of every user of a tile, gathered block by block."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evalrec.tiles import Tile

_TIED_CELLS = 2**20  # scores of users with ties that are searched at once


class BestItems:
    """Gathers the `top_k` best items of every user of a tile, -1 where there are fewer.

    Of items with the same score, that of the lower row comes first.

    Args:
        tile: The users.
        top_k: Items a user.
        struck: Pairs (user of the batch, item) that are no candidates.
    """

    def __init__(
        self, tile: Tile, top_k: int, struck: tuple[Int[Tensor, " seen"], Int[Tensor, " seen"]]
    ) -> None:
        self.top_k = top_k
        self.owners, self.items = struck
        self._values: Tensor | None = None
        self._indices: Tensor | None = None

    def add(self, start: int, scores: Float[Tensor, "batch block"]) -> None:
        """Take in a block, whose first item is `start`."""
        width = scores.shape[1]
        in_block = (self.items >= start) & (self.items < start + width)  # [seen]
        if in_block.any():
            scores = scores.clone()  # the block is shown to others as well
            scores[self.owners[in_block], self.items[in_block] - start] = -torch.inf
        values, indices = _best_of_block(scores, self.top_k)  # [batch, k of the block] each
        indices = indices + start
        if self._values is not None and self._indices is not None:
            # The best so far, whose rows are lower, and the best of this block.
            values = torch.cat([self._values, values], dim=1)
            indices = torch.cat([self._indices, indices], dim=1)
            values, indices = best_first(values, indices, self.top_k)
        self._values, self._indices = values, indices

    @property
    def ranked(self) -> Int[Tensor, "batch k"]:
        """Item rows, best first; those that score -inf are left out."""
        assert self._values is not None
        assert self._indices is not None
        return self._indices.masked_fill(self._values == -torch.inf, -1)

    @property
    def scores(self) -> Float[Tensor, "batch k"]:
        """What the items of `ranked` score; -inf where there is none."""
        assert self._values is not None
        return self._values


def best_first(
    scores: Float[Tensor, "batch candidates"], items: Int[Tensor, "batch candidates"], top_k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The scores and items of the best candidates; equal scores stay in the order they come in."""
    best = scores.sort(dim=1, descending=True, stable=True)
    return best.values[:, :top_k], items.gather(1, best.indices[:, :top_k])


def _best_of_block(
    scores: Float[Tensor, "batch block"], top_k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The best scores of each row and their columns; of equal scores, the first columns."""
    width = scores.shape[1]
    best = scores.topk(min(top_k + 1, width), dim=1)  # one more tells whether the last is tied
    values, columns = best.values[:, :top_k], best.indices[:, :top_k]
    is_tied = (best.values[:, 1:] == best.values[:, :-1]) & (best.values[:, 1:] > -torch.inf)
    # Which of equal scores come first, and where, `topk` leaves open. Rows with such are done anew.
    tied = is_tied.any(dim=1).nonzero()[:, 0]
    for rows in torch.split(tied, max(1, _TIED_CELLS // width)):
        part, last = scores[rows], values[rows, -1:]  # [rows, block], [rows, 1]
        is_above, is_last = part > last, part == last
        room = values.shape[1] - is_above.sum(dim=1, keepdim=True)  # [rows, 1]
        is_kept = is_above | (is_last & (is_last.cumsum(dim=1) <= room))  # k of each row
        kept = is_kept.nonzero()[:, 1].view(len(rows), values.shape[1])  # [rows, k], ascending
        values[rows], columns[rows] = best_first(part.gather(1, kept), kept, top_k)
    return values, columns
