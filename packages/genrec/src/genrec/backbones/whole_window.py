"""Models in which each place of a window sees all others: only the state at its end predicts."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrec.backbones.items import StateBackbone


class WholeWindow(StateBackbone):
    """What FMLP-Rec and TedRec share: later places change earlier ones, so that histories are cut.

    They are trained on pairs, a target a window (`PairBatches`, `last_state`); `forward` gives each
    item the state of the history that ends with it, at the cost of as many windows.
    """

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state of the history that ends with each item, zero at padding.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        batch, length = history.shape
        ends = torch.arange(length, device=history.device)
        # Every prefix of every history as a history of its own.
        prefixes = history[:, None].masked_fill(ends > ends[:, None], self.num_items)
        states = self.last_state(prefixes.flatten(0, 1), item_vectors).view(batch, length, -1)
        return states.masked_fill((history == self.num_items)[..., None], 0.0)
