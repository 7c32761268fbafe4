"""RPG: all codes of the next item are predicted at once (Hou et al., KDD 2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.code_table import CodeTable
from genrec.backbones.sasrec import SASRec
from genrec.config_checks import Similarity
from genrec.layers import Norm
from genrec.similarity import comparable


class RPG(SASRec):
    """SASRec over long codes without an order, with one head per level that predicts its code.

    An item vector is the sum of the vectors of its codes (`CodeTable`). The paper uses 16 to 64
    codes of an optimised product quantizer. The head of a level is a layer with a residual
    connection. It maps the state to a query, which is compared with the codes of that level. Given
    the history, the codes are assumed to be independent. The log-probability of an item is
    therefore the sum of the log-probabilities of its codes. The loss is the mean cross-entropy over
    the levels (the paper's multi-token prediction); another loss has no effect.

    Differs: all items of the catalogue are scored exactly, in one pass per level. The paper's
    decoding searches a graph of similar items and scores fewer items, which saves time for much
    larger catalogues. Items with equal codes have equal scores.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: As in `SASRec`, like all arguments that are not explained here.
        num_layers: Self-attention layers.
        num_heads: Attention heads in each layer.
        history_length: Largest number of items in a history.
        dropout: Dropout probability.
        feedforward_dim: Inner width of the feed-forward parts.
        positions: Which item has position 0.
        norm: Position of the layer norms.
        item_encoder: The vectors of the codes, as a `CodeTable`.
        similarity: How queries and vectors of codes are compared; the paper uses the cosine.
        temperature: Divides the similarity.

    Raises:
        TypeError: `item_encoder` is no `CodeTable`.
        ValueError: An option is out of range.
    """

    item_encoder: CodeTable

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
        positions: Literal["oldest", "newest"] = "oldest",
        norm: Norm = "pre",
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        if not isinstance(item_encoder, CodeTable):
            raise TypeError(f"item_encoder must be a CodeTable, got {type(item_encoder).__name__}")
        super().__init__(
            num_items,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            history_length=history_length,
            dropout=dropout,
            feedforward_dim=feedforward_dim,
            positions=positions,
            norm=norm,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        levels = len(item_encoder.codebook_sizes)
        # All heads start as the identity, as in the authors' code.
        self.head_weights = nn.Parameter(torch.zeros(levels, dim, dim))
        self.head_biases = nn.Parameter(torch.zeros(levels, dim))

    def code_log_probs(
        self, states: Float[Tensor, "batch dim"]
    ) -> list[Float[Tensor, "batch codes"]]:
        """Returns the log-probabilities of the codes of each level."""
        log_probs = []
        for codebook, weight, bias in zip(
            self.item_encoder.codebooks(), self.head_weights, self.head_biases, strict=True
        ):
            query = states + F.silu(states @ weight.T + bias)  # [batch, dim]
            left, right = comparable(query, codebook, self.similarity, self.temperature)
            log_probs.append((left @ right.T).float().log_softmax(dim=1))
        return log_probs

    def next_item_loss(
        self,
        states: Float[Tensor, "*batch dim"],
        item_vectors: Float[Tensor, "items dim"],
        targets: Int[Tensor, "*batch"],
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, ""]:
        """Returns the mean cross-entropy of the targets' codes, in nats.

        `item_vectors` and `loss` are not used.
        """
        is_target = targets < self.num_items
        codes = self.item_encoder.codes[targets[is_target]]  # [targets, levels]
        log_probs = self.code_log_probs(states[is_target])
        losses = [F.nll_loss(table, codes[:, level]) for level, table in enumerate(log_probs)]
        return torch.stack(losses).mean()

    def compare(
        self, states: Float[Tensor, "batch dim"], item_vectors: Float[Tensor, "items dim"]
    ) -> Float[Tensor, "batch items"]:
        """Returns the log-probability of the codes of every item; its vectors are not used."""
        codes = self.item_encoder.codes
        scores = torch.zeros(len(states), self.num_items, device=states.device)
        for level, log_probs in enumerate(self.code_log_probs(states)):
            scores = scores + log_probs[:, codes[:, level]]
        return scores
