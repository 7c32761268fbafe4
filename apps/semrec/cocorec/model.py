"""CoCoRec's model and its three losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar, cast

import torch
from fusion import (
    MaskedCodes,
    SemanticFusion,
    mask_codes,
    masked_code_loss,
    masked_sequence_alignment,
    pool_codes,
)
from genrec import (
    Batch,
    SASRec,
)
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from semrec.cocorec.config import Model

T = TypeVar("T", bound=tuple[Tensor, ...])


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """Items with masked codes, and what the semantic-fusion module makes of them.

    Attributes:
        inputs: What the backbone reads of each item.
        states: h-hat of each code that is to be guessed.
        targets: The row of the true code among all codes.
        items: Which of the items each code is of.
    """

    inputs: Float[Tensor, "items dim"]
    states: Float[Tensor, "guesses dim"]
    targets: Int[Tensor, " guesses"]
    items: Int[Tensor, " guesses"]


class FusedItems(nn.Module):
    """The items' codes and views, and the semantic-fusion module that makes vectors of them.

    The stored codes and views are the caller's, and no part of the weights.

    Args:
        config: Sizes.
        codes: One row an item.
        codebook_sizes: Number of codes at each position.
        views: One embedding a view, as wide as the model.
    """

    codes: Tensor
    views: Tensor

    def __init__(
        self,
        config: Model,
        codes: Int[Tensor, "items codes"],
        codebook_sizes: Sequence[int],
        views: Float[Tensor, "items views dim"],
    ) -> None:
        super().__init__()
        if len(codes) != len(views):
            raise ValueError(f"codes must have a row an item, {len(views)}, got {len(codes)}")
        if views.shape[2] != config.dim:
            raise ValueError(f"views must have width dim, {config.dim}, got {views.shape[2]}")
        sizes = torch.tensor(codebook_sizes, device=codes.device)
        if len(sizes) != codes.shape[1] or (codes < 0).any() or (codes >= sizes).any():
            raise ValueError(f"codes must be within codebook_sizes, {tuple(codebook_sizes)}")
        self.config = config
        self.register_buffer("codes", codes.long(), persistent=False)
        self.register_buffer("views", views, persistent=False)
        self.fusion = SemanticFusion(
            codebook_sizes,
            config.dim,
            num_layers=config.fusion_layers,
            num_heads=config.num_heads,
            feedforward_dim=config.feedforward_dim,
            dropout=config.fusion_dropout,
        )

    def forward(
        self, rows: Int[Tensor, " rows"] | None = None
    ) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"]]:
        """What the backbone reads of some items, or of all, and what states are compared with.

        Each item passes the semantic-fusion module once. Both are the same tensor where Pool(Z^c)
        is added everywhere.
        """
        if rows is None:
            rows = torch.arange(len(self.codes), device=self.codes.device)

        def pooled(rows: Tensor) -> tuple[Tensor, ...]:
            states, queries = self._fuse(rows, self.codes[rows])
            if self.config.pooling == "paper":
                return (pool_codes(states, queries),)
            inputs = pool_codes(states)
            return inputs, inputs + queries.mean(dim=1)

        found = self._in_portions(pooled, rows)
        return found[0], found[-1]

    def mask(self, rows: Int[Tensor, " rows"]) -> MaskedCodes:
        """Draws which codes of some items are masked."""
        return mask_codes(
            self.codes[rows], self.fusion.codebook_sizes, ratio=self.config.mask_ratio
        )

    def guess(self, rows: Int[Tensor, " rows"], masked: MaskedCodes) -> Guesses:
        """Passes some items with masked codes, once each."""

        def guessed(
            rows: Tensor, codes: Tensor, hidden: Tensor, chosen: Tensor
        ) -> tuple[Tensor, Tensor]:
            states, queries = self._fuse(rows, codes, hidden)
            added = queries if self.config.pooling == "paper" else None
            return pool_codes(states, added), states[chosen]

        inputs, states = self._in_portions(
            guessed, rows, masked.codes, masked.hidden, masked.chosen
        )
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
        queries = self.fusion.embed(codes, hidden)
        views = self.views[rows] if self.config.read_views else queries
        return self.fusion(queries, views), queries

    def _in_portions(self, function: Callable[..., T], *arguments: Tensor) -> T:
        """Calls a function on some items at a time; its activations are held of one portion."""
        count, most = len(arguments[0]), self.config.checkpoint_items
        if count <= most:
            return function(*arguments)
        size = -(-count // -(-count // most))  # even portions
        portions = [
            tuple(argument[start : start + size] for argument in arguments)
            for start in range(0, count, size)
        ]
        if torch.is_grad_enabled():
            parts = [checkpoint(function, *portion, use_reentrant=False) for portion in portions]
        else:
            parts = [function(*portion) for portion in portions]
        return cast(T, tuple(torch.cat(part) for part in zip(*parts, strict=True)))


class FusedBackbone(SASRec):
    """SASRec that may read other item vectors than those that its states are compared with.

    A table given to `forward` may hold the items of a batch alone: the padding of a history is the
    number of the table's rows.

    Args:
        config: Sizes.
        num_items: Size of the catalogue.
        item_encoder: Whose forward returns both tables.
    """

    def __init__(self, config: Model, num_items: int, item_encoder: nn.Module) -> None:
        super().__init__(
            num_items,
            dim=config.dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            history_length=config.history_length,
            dropout=config.dropout,
            feedforward_dim=config.feedforward_dim,
            item_encoder=item_encoder,
            similarity=config.similarity,
            temperature=config.temperature,
        )

    def tables(self) -> tuple[Float[Tensor, "items dim"], Float[Tensor, "items dim"]]:
        """What is read of all items, and what states are compared with."""
        inputs, outputs = self.item_encoder()
        return inputs, outputs

    def item_vectors(self) -> Float[Tensor, "items dim"]:
        """What states are compared with."""
        return self.tables()[1]

    def look_up(
        self, history: Int[Tensor, "*batch"], item_vectors: Float[Tensor, "items dim"] | None
    ) -> tuple[Float[Tensor, "*batch dim"], Bool[Tensor, "*batch"]]:
        """The vectors of the items in `history`, zero at padding, and where padding is."""
        vectors = self.tables()[0] if item_vectors is None else item_vectors
        padding = history == len(vectors)
        found = F.embedding(history.masked_fill(padding, 0), vectors)
        return found.masked_fill(padding[..., None], 0.0), padding

    def score(self, history: Int[Tensor, "batch length"]) -> Float[Tensor, "batch items"]:
        """Scores the whole catalogue for each history; higher is better."""
        inputs, outputs = self.tables()
        return self.compare(self.last_state(history, inputs), outputs)


class CoCoRec(FusedBackbone):
    """The semantic-fusion module, and a backbone that reads what it makes of items (section 2.3).

    Args:
        config: Sizes.
        codes: One row an item.
        codebook_sizes: Number of codes at each position.
        views: One embedding a view, as wide as the model.
    """

    item_encoder: FusedItems

    def __init__(
        self,
        config: Model,
        codes: Int[Tensor, "items codes"],
        codebook_sizes: Sequence[int],
        views: Float[Tensor, "items views dim"],
    ) -> None:
        super().__init__(config, len(codes), FusedItems(config, codes, codebook_sizes, views))
        self.config = config
        self._kept: tuple[list[tuple[int, int]], tuple[Tensor, Tensor]] | None = None

    def tables(self) -> tuple[Float[Tensor, "items dim"], Float[Tensor, "items dim"]]:
        """What is read of all items, and what states are compared with.

        Outside training they are computed once, and again after training or with other weights.
        """
        if self.training or torch.is_grad_enabled():
            return super().tables()
        # Changes in place count versions up, but those of fused optimizers do not: see `train`.
        state = [(value.data_ptr(), value._version) for value in self.item_encoder.parameters()]
        if self._kept is None or self._kept[0] != state:
            self._kept = state, super().tables()
        return self._kept[1]

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; what was computed before either is forgotten."""
        self._kept = None
        return super().train(mode)


def cocorec_loss(config: Model, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """L_CE, alpha L_MCM and beta L_MSA (eq. 5 to 9).

    Each item of the history, the targets and the negatives passes the semantic-fusion module once,
    and each of the history once more with masked codes, however often it occurs; what comes out is
    looked up wherever the item stands. The terms and gradients are those of passing every
    occurrence on its own, where these have the same codes masked and the same values dropped.

    Differs: the authors' code draws masks and dropout for each occurrence.
    """
    assert isinstance(model, CoCoRec)
    num_items, items = model.num_items, model.item_encoder
    negatives = config.draw(num_items, batch.history.device)
    rows = config.rows(num_items, batch.history, batch.targets, negatives)
    inputs, outputs = items(rows)
    history, targets = (_local(rows, part) for part in (batch.history, batch.targets))
    if targets.ndim == 2:  # a target at every position
        states = model(history, inputs)
        last = model.newest(states, batch.history)
    else:
        states = last = model.last_state(history, inputs)
    losses = {
        "next_item": config.next_item(states, outputs, targets, _local(rows, negatives), num_items)
    }
    if not config.alpha and not config.beta:
        return losses

    read, counts = torch.unique(batch.history, return_counts=True)
    read, counts = read[read < num_items], counts[read < num_items]
    guesses = items.guess(read, items.mask(read))
    if config.alpha:
        losses["masked_codes"] = config.alpha * masked_code_loss(
            guesses.states,
            guesses.targets,
            items.fusion.code_vectors.weight,
            temperature=config.temperature,
            weights=counts[guesses.items].to(guesses.states.dtype),
        )
    if config.beta:
        losses["alignment"] = config.beta * masked_sequence_alignment(
            model.last_state(_local(read, batch.history), guesses.inputs),
            last,
            temperature=config.temperature,
            user_rows=batch.users,
        )
    return losses


def _local(rows: Int[Tensor, " rows"], part: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Where each item stands among `rows`; their number where it is padding."""
    return torch.searchsorted(rows, part.contiguous())
