"""Models in which each place of a window sees all others: only the state at its end predicts."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrec.backbones.items import StateBackbone


class WholeWindow(StateBackbone):
    """The base class of FMLP-Rec and TedRec, in which later items change earlier states.

    These models are trained on pairs, one target per window (`PairBatches`, `last_state`). For each
    item, `forward` returns the state of the history that ends with it. This costs one window per
    item.
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
        # Every prefix of every history becomes a separate history.
        prefixes = history[:, None].masked_fill(ends > ends[:, None], self.num_items)
        states = self.last_state(prefixes.flatten(0, 1), item_vectors).view(batch, length, -1)
        return states.masked_fill((history == self.num_items)[..., None], 0.0)
