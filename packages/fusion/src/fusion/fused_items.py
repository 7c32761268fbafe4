"""A catalogue's codes and views, and the semantic-fusion module that turns them into vectors.

The module is expensive for each item, and an item's vector depends only on its own codes and views.
So pass each distinct item of a batch once, then look up its vector wherever the item occurs. Memory
is bounded too: items pass in portions, and the activations of only one portion are held at a time;
the backward pass computes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusion.masking import MaskedCodes, mask_codes
from fusion.semantic_fusion import SemanticFusion, pool_codes

Pooling = Literal["paper", "code"]
"""Where Pool(Z^c) is added to Pool(H): everywhere, or everywhere but in a backbone's input."""

T = TypeVar("T", bound=tuple[Tensor, ...])


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """The semantic-fusion module's output for items with masked codes.

    `states` and `targets` are arguments of `masked_code_loss`. `inputs` are a backbone's inputs for
    a history with masked codes, for `masked_sequence_alignment`.

    Attributes:
        inputs: A backbone's input for each item.
        states: h-hat of each code that is to be predicted.
        targets: The row of the true code among all codes.
        items: The item of each of these codes, as a row of `inputs`.
    """

    inputs: Float[Tensor, "items dim"]
    states: Float[Tensor, "guesses dim"]
    targets: Int[Tensor, " guesses"]
    items: Int[Tensor, " guesses"]


class FusedItems(nn.Module):
    """Makes one vector per item from its codes and views (CoCoRec, eq. 1-2).

    Codes and views are fixed. They move with the module to its device, but are not saved with its
    weights.

    Args:
        codes: One row per item.
        codebook_sizes: Number of codes at each position.
        views: One embedding for each view of each item; its width is the width of the module.
        num_layers: Layers of the semantic-fusion module; L in the paper.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward part.
        dropout: Dropout probability of the semantic-fusion module.
        pooling: "paper": Pool(Z^c) is added to Pool(H) in all vectors. "code", as in the authors'
            code: only in the vectors that are compared with a backbone's states.
        read_views: If False, the codes attend to themselves instead of the views; this is the
            paper's ablation without text.
        mask_ratio: Probability that a code is chosen to be predicted; rho in the paper.
        checkpoint_items: Activations are held for at most this many items. More items pass in
            portions of equal size, at most this one; the backward pass computes each portion again,
            with the same numbers and the same dropout.

    Raises:
        ValueError: Codes do not fit the views or `codebook_sizes`, or a parameter is out of range.
    """

    codes: Tensor
    views: Tensor

    def __init__(
        self,
        codes: Int[Tensor, "items codes"],
        codebook_sizes: Sequence[int],
        views: Float[Tensor, "items views dim"],
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        feedforward_dim: int = 512,
        dropout: float = 0.1,
        pooling: Pooling = "paper",
        read_views: bool = True,
        mask_ratio: float = 0.5,
        checkpoint_items: int = 1024,
    ) -> None:
        super().__init__()
        if len(codes) != len(views):
            raise ValueError(f"codes must have one row per item, {len(views)}, got {len(codes)}")
        sizes = torch.tensor(codebook_sizes, device=codes.device)
        if len(sizes) != codes.shape[1] or (codes < 0).any() or (codes >= sizes).any():
            raise ValueError(f"codes must be within codebook_sizes, {tuple(codebook_sizes)}")
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {get_args(Pooling)}, got {pooling!r}")
        if not 0 < mask_ratio <= 1:
            raise ValueError(f"mask_ratio must be in (0, 1], got {mask_ratio}")
        if checkpoint_items < 1:
            raise ValueError(f"checkpoint_items must be at least 1, got {checkpoint_items}")
        self.pooling = pooling
        self.read_views = read_views
        self.mask_ratio = mask_ratio
        self.checkpoint_items = checkpoint_items
        self.register_buffer("codes", codes.long(), persistent=False)
        self.register_buffer("views", views, persistent=False)
        self.fusion = SemanticFusion(
            codebook_sizes,
            views.shape[2],
            num_layers=num_layers,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
        )

    def forward(
        self, rows: Int[Tensor, " rows"] | None = None
    ) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"]]:
        """A backbone's inputs for some items, and the vectors that its states are compared with.

        Both are the same tensor with ``pooling="paper"``.

        Args:
            rows: The items, or None for all. An item that is listed twice is computed twice.
        """
        if rows is None:
            rows = torch.arange(len(self.codes), device=self.codes.device)

        def vectors_of(rows: Tensor) -> tuple[Tensor, ...]:
            states, queries = self._fuse(rows, self.codes[rows])  # both [rows, codes, dim]
            if self.pooling == "paper":
                return (pool_codes(states, queries),)
            inputs = pool_codes(states)  # [rows, dim]
            return inputs, inputs + queries.mean(dim=1)

        tables = self._in_portions(vectors_of, rows)  # each [rows, dim]
        return tables[0], tables[-1]

    def mask(
        self, rows: Int[Tensor, " rows"], *, generator: torch.Generator | None = None
    ) -> MaskedCodes:
        """Draws at random which codes of some items are masked, as `mask_codes` does.

        Args:
            rows: The items.
            generator: Random generator on the device of the codes; None is torch's default one.
        """
        return mask_codes(
            self.codes[rows],  # [rows, codes]
            self.fusion.codebook_sizes,
            ratio=self.mask_ratio,
            generator=generator,
        )

    def guess(self, rows: Int[Tensor, " rows"], masked: MaskedCodes) -> Guesses:
        """Passes some items with masked codes through the semantic-fusion module (CoCoRec, 2.4).

        Args:
            rows: The items.
            masked: Their codes, from `mask`.
        """

        def guesses_of(
            rows: Tensor, codes: Tensor, hidden: Tensor, chosen: Tensor
        ) -> tuple[Tensor, Tensor]:
            states, queries = self._fuse(rows, codes, hidden)  # both [rows, codes, dim]
            added = queries if self.pooling == "paper" else None
            return pool_codes(states, added), states[chosen]  # [rows, dim], [guesses, dim]

        inputs, states = self._in_portions(
            guesses_of, rows, masked.codes, masked.hidden, masked.chosen
        )
        # `targets` and `items` have the order in which `states[chosen]` lists codes: item after
        # item, position after position. Portions do not change it.
        return Guesses(
            inputs=inputs,
            states=states,
            targets=self.fusion.tokens(self.codes[rows])[masked.chosen],
            items=masked.chosen.nonzero()[:, 0],
        )

    def _fuse(
        self,
        rows: Int[Tensor, " rows"],
        codes: Int[Tensor, "rows codes"],
        hidden: Bool[Tensor, "rows codes"] | None = None,
    ) -> tuple[Float[Tensor, "rows codes dim"], Float[Tensor, "rows codes dim"]]:
        """H and Z^c."""
        queries = self.fusion.embed(codes, hidden)  # [rows, codes, dim]
        views = self.views[rows] if self.read_views else queries  # [rows, views or codes, dim]
        return self.fusion(queries, views), queries

    def _in_portions(self, function: Callable[..., T], *arguments: Tensor) -> T:
        """Calls a function on portions of items; only one portion's activations are held.

        Args:
            function: Takes a portion of each argument; its results are joined along the first axis.
            arguments: Tensors with one row per item.
        """
        count, most = len(arguments[0]), self.checkpoint_items
        if count <= most:
            return function(*arguments)
        # As few portions as possible, of equal size: then the largest is as small as possible.
        size = -(-count // -(-count // most))
        portions = [
            tuple(argument[start : start + size] for argument in arguments)  # [size, ...] each
            for start in range(0, count, size)
        ]
        if torch.is_grad_enabled():
            parts = [checkpoint(function, *portion, use_reentrant=False) for portion in portions]
        else:
            parts = [function(*portion) for portion in portions]
        return cast(T, tuple(torch.cat(part) for part in zip(*parts, strict=True)))
