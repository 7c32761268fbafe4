"""CoCoRec's model and its three losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from fusion import FusedItems, masked_code_loss, masked_sequence_alignment
from genrec import Batch, SASRec
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from semrec.cocorec.config import Model


class FusedBackbone(SASRec):
    """SASRec whose input vectors may differ from the vectors that its states are compared with.

    A table given to `forward` may hold only the items of a batch; the padding of a history is then
    the number of the table's rows.

    Args:
        config: Sizes.
        num_items: Size of the catalogue.
        item_encoder: A module whose forward returns both tables.
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
            norm=config.norm,
            item_encoder=item_encoder,
            similarity=config.similarity,
            temperature=config.temperature,
        )

    def tables(self) -> tuple[Float[Tensor, "items dim"], Float[Tensor, "items dim"]]:
        """The input vectors of all items, and the vectors that states are compared with."""
        inputs, outputs = self.item_encoder()
        return inputs, outputs

    def item_vectors(self) -> Float[Tensor, "items dim"]:
        """The item vectors that states are compared with."""
        return self.tables()[1]

    def look_up(
        self, history: Int[Tensor, "*batch"], item_vectors: Float[Tensor, "items dim"] | None
    ) -> tuple[Float[Tensor, "*batch dim"], Bool[Tensor, "*batch"]]:
        """The vectors of the items in `history`, zero at padding, and the mask of padding."""
        vectors = self.tables()[0] if item_vectors is None else item_vectors
        padding = history == len(vectors)
        inputs = F.embedding(history.masked_fill(padding, 0), vectors)
        return inputs.masked_fill(padding[..., None], 0.0), padding

    def score(self, history: Int[Tensor, "batch length"]) -> Float[Tensor, "batch items"]:
        """Scores the whole catalogue for each history; higher is better."""
        inputs, outputs = self.tables()
        return self.compare(self.last_state(history, inputs), outputs)


class CoCoRec(FusedBackbone):
    """The semantic-fusion module, and a backbone that reads its item vectors (section 2.3).

    Args:
        config: Sizes.
        codes: One row per item.
        codebook_sizes: Number of codes at each position.
        views: One embedding per view, as wide as the model.
    """

    item_encoder: FusedItems

    def __init__(
        self,
        config: Model,
        codes: Int[Tensor, "items codes"],
        codebook_sizes: Sequence[int],
        views: Float[Tensor, "items views dim"],
    ) -> None:
        if views.shape[2] != config.dim:
            raise ValueError(f"views must have width dim, {config.dim}, got {views.shape[2]}")
        items = FusedItems(
            codes,
            codebook_sizes,
            views,
            num_layers=config.fusion_layers,
            num_heads=config.num_heads,
            feedforward_dim=config.feedforward_dim,
            dropout=config.fusion_dropout,
            pooling=config.pooling,
            read_views=config.read_views,
            mask_ratio=config.mask_ratio,
            checkpoint_items=config.checkpoint_items,
        )
        super().__init__(config, len(codes), items)
        self.config = config
        self._kept: tuple[list[tuple[int, int]], tuple[Tensor, Tensor]] | None = None

    def tables(self) -> tuple[Float[Tensor, "items dim"], Float[Tensor, "items dim"]]:
        """The input vectors of all items, and the vectors that states are compared with.

        Outside training they are computed once, and again after training or with other weights.
        """
        if self.training or torch.is_grad_enabled():
            return super().tables()
        # Changes in place increase versions, except those of fused optimizers: see `train`.
        state = [(value.data_ptr(), value._version) for value in self.item_encoder.parameters()]
        if self._kept is None or self._kept[0] != state:
            self._kept = state, super().tables()
        return self._kept[1]

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode and discards the computed tables."""
        self._kept = None
        return super().train(mode)


def cocorec_loss(config: Model, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """L_CE, alpha L_MCM and beta L_MSA (eq. 5 to 9).

    Each distinct item of the history, the targets and the negatives passes the semantic-fusion
    module once, and each of the history once more with masked codes; every occurrence looks up the
    result. Terms and gradients are the same as for separate passes of all occurrences with equal
    masks and dropout.

    Differs: the authors' code draws masks and dropout for each occurrence.
    """
    assert isinstance(model, CoCoRec)
    num_items, items = model.num_items, model.item_encoder
    negatives = config.loss.draw(num_items, batch.history.device)
    rows = config.loss.rows(num_items, batch.history, batch.targets, negatives)
    inputs, outputs = items(rows)
    history, targets = (_local(rows, part) for part in (batch.history, batch.targets))
    if targets.ndim == 2:  # one target per position
        states = model(history, inputs)
        last = model.newest(states, batch.history)
    else:
        states = last = model.last_state(history, inputs)
    losses = {
        "next_item": config.loss(states, outputs, targets, _local(rows, negatives), num_items)
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
    """The position of each item in `rows`; their number for padding."""
    return torch.searchsorted(rows, part.contiguous())
