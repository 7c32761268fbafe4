"""DIN: attention of each candidate over the history (Zhou et al., KDD 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import Backbone

# Activations (16 MiB in fp32) and histories at a time, while the whole catalogue is scored.
ACTIVATIONS_AT_A_TIME = 2**22
HISTORIES_AT_A_TIME = 4


class DIN(Backbone):
    """Deep interest network: scores each pair of a history and a candidate.

    An attention network computes the weight of each item of the history for the candidate, from
    both vectors, their difference and their product. The weighted sum, the candidate and their
    product are the input of an output network. The weights are not normalised, as in DIN's section
    4.3. A history has no single state: a score needs its candidate. Train the model with
    `candidate_cross_entropy` on `sample_candidates(targets, num_items, 60)`. Its `item_vectors()`
    are the collaborative embeddings (E_C in PRORec, section 3.3).

    Defaults are those of EAGER, which PRORec's first stage follows.

    Differs: SiLU instead of Dice. Dice uses batch statistics, so a score would depend on padding
    and on the batch's other rows; SiLU is Dice with mean 0 and variance 1.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of the item vectors.
        attention_sizes: Hidden sizes of the attention network.
        output_sizes: Hidden sizes of the output network.
        recency: None for DIN as published, which ignores the order of the history. A number is the
            length of the longest history; the attention then also uses each item's distance from
            the newest item (by a learned bias of its first layer).
        item_encoder: Module whose `forward()` returns [num_items, dim]; an `ItemTable` by default.

    Raises:
        ValueError: A size is not positive.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 96,
        attention_sizes: Sequence[int] = (64, 16),
        output_sizes: Sequence[int] = (200, 80),
        recency: int | None = None,
        item_encoder: nn.Module | None = None,
    ) -> None:
        if not attention_sizes or not output_sizes or min(*attention_sizes, *output_sizes) < 1:
            raise ValueError(
                "attention_sizes and output_sizes must be positive, "
                f"got {tuple(attention_sizes)} and {tuple(output_sizes)}"
            )
        if recency is not None and recency < 1:
            raise ValueError(f"recency must be at least 1, got {recency}")
        super().__init__(num_items, dim=dim, item_encoder=item_encoder)
        self.settings = {
            "dim": dim,
            "attention_sizes": list(attention_sizes),
            "output_sizes": list(output_sizes),
            "recency": recency,
        }
        first = attention_sizes[0]
        # The attention's first layer on [candidate, item, candidate - item, candidate * item],
        # taken apart: what depends on one side only is computed once for that side.
        self.from_candidate = nn.Linear(dim, first)
        self.from_item = nn.Linear(dim, first, bias=False)
        self.from_product = nn.Linear(dim, first, bias=False)
        self.from_distance = None if recency is None else nn.Parameter(torch.zeros(recency, first))
        self.attention = _network(attention_sizes)
        self.output = nn.Sequential(nn.Linear(3 * dim, output_sizes[0]), _network(output_sizes))

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        candidates: Int[Tensor, "batch candidates"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch candidates"]:
        """Scores each row's candidates; higher is better.

        Raises:
            ValueError: The history is longer than `recency`.
        """
        vectors = self.item_vectors() if item_vectors is None else item_vectors
        items, padding = self.look_up(history, vectors)
        return self._compare(items, padding, F.embedding(candidates, vectors))

    def score(self, history: Int[Tensor, "batch length"]) -> Float[Tensor, "batch items"]:
        """Scores the whole catalogue for each history, in chunks of items.

        Memory is bounded only without gradients: call it under `torch.no_grad()`.

        Raises:
            ValueError: The history is longer than `recency`.
        """
        vectors = self.item_vectors()
        items, padding = self.look_up(history, vectors)
        # Only a few histories at a time, so that a chunk has enough items for a fast product.
        activations = HISTORIES_AT_A_TIME * history.shape[1] * self.from_item.out_features
        chunk = max(ACTIVATIONS_AT_A_TIME // activations, 1)
        parts = torch.split(vectors, chunk)
        rows = [
            torch.cat(
                [
                    self._compare(history_items, pad, part.expand(len(history_items), -1, -1))
                    for part in parts
                ],
                dim=1,
            )
            for history_items, pad in zip(
                torch.split(items, HISTORIES_AT_A_TIME),
                torch.split(padding, HISTORIES_AT_A_TIME),
                strict=True,
            )
        ]
        return torch.cat(rows)

    def _compare(
        self,
        items: Float[Tensor, "batch length dim"],
        padding: Bool[Tensor, "batch length"],
        candidates: Float[Tensor, "batch candidates dim"],
    ) -> Float[Tensor, "batch candidates"]:
        """Scores the vectors of candidates for the vectors of histories."""
        of_item = self.from_item(items) + self.from_candidate.bias
        if self.from_distance is not None:
            of_item = of_item + self._distances(padding)
        # The first layer's weights for the candidate and for the product are folded into the
        # history. So it is one matrix product, without a [batch, candidates, length, dim] tensor.
        folded = items[:, :, None] * self.from_product.weight + self.from_candidate.weight
        hidden = torch.baddbmm(
            rearrange(of_item, "b l first -> b 1 (l first)"),
            candidates,
            rearrange(folded, "b l first d -> b d (l first)"),
        )
        hidden = rearrange(hidden, "b c (l first) -> b c l first", l=items.shape[1])
        weights = self.attention(hidden)[..., 0].masked_fill(padding[:, None], 0.0)
        interest = weights @ items
        pair = torch.cat([interest, candidates, interest * candidates], dim=-1)
        scores: Tensor = self.output(pair)[..., 0]
        return scores

    def _distances(self, padding: Tensor) -> Tensor:
        """Returns the attention's bias for each item's distance from the newest item."""
        assert self.from_distance is not None
        length = padding.shape[1]
        if length > len(self.from_distance):
            raise ValueError(
                f"history must have at most {len(self.from_distance)} columns, got {length}"
            )
        columns = torch.arange(length, device=padding.device)
        newest = (~padding).sum(1, keepdim=True) - 1
        return self.from_distance[(newest - columns).clamp(min=0)]


def _network(sizes: Sequence[int]) -> nn.Sequential:
    """Returns a network after its first linear layer: activations, layers, one output."""
    layers: list[nn.Module] = [nn.SiLU()]
    for size, following in zip(sizes, [*sizes[1:], 1], strict=True):
        layers.append(nn.Linear(size, following))
        layers.append(nn.SiLU())
    return nn.Sequential(*layers[:-1])
