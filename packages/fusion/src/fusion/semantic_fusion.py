"""CoCoRec's semantic-fusion module: an item's codes attend to its views."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class SemanticFusion(nn.Module):
    """Layers of self-attention over an item's codes, cross-attention to its views, feed-forward.

    CoCoRec, eq. 1-2: Z^c are the code embeddings, with one table for each position; Z^t are the
    views. Neither has an order, so there are no position embeddings. Post-LN layers, as in the
    authors' code.

    Differs: the vector shown in place of a masked code is learned; in the authors' code it is the
    vector of the padding, which keeps its random initial value.

    Args:
        codebook_sizes: Number of codes at each position.
        dim: Width of code embeddings, views and output.
        num_layers: Layers; L in the paper.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward part.
        dropout: Probability for attention weights, inner activations and sub-layer outputs.

    Raises:
        ValueError: `codebook_sizes` is empty or has a size below 1, `dim` is no multiple of
            `num_heads`, or `num_layers` is less than 1.
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        dim: int = 128,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        feedforward_dim: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ValueError(
                f"codebook_sizes must be one number per position, got {self.codebook_sizes}"
            )
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim must be a positive multiple of num_heads, got {dim} and {num_heads}"
            )
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.code_vectors = nn.Embedding(sum(self.codebook_sizes), dim)
        self.mask_vector = nn.Parameter(torch.empty(dim))
        starts = list(accumulate(self.codebook_sizes, initial=0))[:-1]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                dim,
                num_heads,
                feedforward_dim,
                dropout,
                activation="gelu",
                layer_norm_eps=1e-12,
                batch_first=True,
            )
            for _ in range(num_layers)
        )
        # A faster dropout replaces the layers' own. The dropout of the attention weights stays,
        # since it is inside torch's kernel.
        for layer in self.layers:
            for name, part in list(layer.named_children()):
                if isinstance(part, nn.Dropout):
                    setattr(layer, name, _Dropout(dropout))
        nn.init.normal_(self.mask_vector, std=0.02)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.MultiheadAttention):
                nn.init.normal_(module.in_proj_weight, std=0.02)

    def tokens(self, codes: Int[Tensor, "items codes"]) -> Int[Tensor, "items codes"]:
        """The row of `code_vectors` of each code: position after position, code after code."""
        return codes + self.get_buffer("starts")

    def embed(
        self,
        codes: Int[Tensor, "items codes"],
        hidden: Bool[Tensor, "items codes"] | None = None,
    ) -> Float[Tensor, "items codes dim"]:
        """The code embeddings Z^c, with the mask's vector where `hidden` is True."""
        vectors: Tensor = self.code_vectors(self.tokens(codes))  # [items, codes, dim]
        if hidden is not None:
            vectors = torch.where(hidden[..., None], self.mask_vector.to(vectors.dtype), vectors)
        return vectors

    def forward(
        self,
        queries: Float[Tensor, "items codes dim"],
        views: Float[Tensor, "items views dim"],
    ) -> Float[Tensor, "items codes dim"]:
        """The fused states H of each code.

        Args:
            queries: Code embeddings, from `embed`.
            views: One embedding per view, as wide as the module (the paper reduces text embeddings
                by PCA). For the paper's ablation without text, pass the code embeddings here too.
        """
        # Eq. 1 and 2 are a decoder layer: self-attention over the codes, then cross-attention with
        # the views as memory, then feed-forward.
        states = queries  # [items, codes, dim]
        for layer in self.layers:
            states = layer(states, views)
        return states

    def represent(
        self,
        codes: Int[Tensor, "items codes"],
        views: Float[Tensor, "items views dim"],
        *,
        hidden: Bool[Tensor, "items codes"] | None = None,
        add_codes: bool = True,
    ) -> Float[Tensor, "items dim"]:
        """One vector per item: e-tilde = Pool(H) + Pool(Z^c), where Pool is the mean.

        Args:
            codes: One row per item.
            views: One embedding per view.
            hidden: True where the mask is shown in place of a code.
            add_codes: Whether Pool(Z^c) is added. The paper adds it everywhere; the authors' code
                adds it for targets only, not for the items of the history.
        """
        queries = self.embed(codes, hidden)  # [items, codes, dim]
        return pool_codes(self(queries, views), queries if add_codes else None)


def pool_codes(
    states: Float[Tensor, "items codes dim"],
    queries: Float[Tensor, "items codes dim"] | None = None,
) -> Float[Tensor, "items dim"]:
    """Pool(H), the mean over the codes, plus Pool(Z^c) where `queries` is not None."""
    pooled = states.mean(dim=1)  # [items, dim]
    return pooled if queries is None else pooled + queries.mean(dim=1)


class _Dropout(nn.Dropout):
    """Dropout that draws one random byte per value on a CPU.

    Torch's own dropout draws a whole number per value there, which takes a sixth of the module's
    training time. The probability is rounded to a multiple of 1/256, and values are scaled by the
    rounded probability.
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Zeroes values at random in training and scales up the rest."""
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        # A byte below `dropped` means that the value becomes zero.
        dropped = min(max(round(256 * self.p), 1), 255)
        # Each draw gives eight bytes; `None` is 2**63, one past the largest int64.
        words = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: input.numel()] >= dropped
        return input * kept.view(input.shape).to(input.dtype).mul_(256 / (256 - dropped))
