"""A sequence model and its training in one configuration, so that backbones are compared fairly.

Everything but the backbone is then the same by construction: sizes, item vectors, loss, negatives,
windows and budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from genrec.backbones import (
    HSTU,
    BERT4Rec,
    GRU4Rec,
    ItemInput,
    ItemTable,
    SASRec,
    StateBackbone,
    item_table,
)
from genrec.cloze import MaskedBatches
from genrec.recipes import SequenceRecipe
from genrec.sequences import Batch, SequenceBatches
from genrec.windows import Histories

BackboneName = Literal["sasrec", "gru4rec", "bert4rec", "hstu"]
"""The sequence models that a `SequenceModelConfig` can name."""

_BACKBONES: dict[BackboneName, type[StateBackbone]] = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "bert4rec": BERT4Rec,
    "hstu": HSTU,
}

BACKBONE_TITLES: dict[BackboneName, str] = {
    name: kind.__name__ for name, kind in _BACKBONES.items()
}
"""What the backbones are called in tables."""

_ITEM_TITLES: dict[ItemInput, str] = {
    "ids": "ids",
    "content": "content",
    "both": "ids and content",
}


@dataclass(frozen=True, kw_only=True)
class SequenceModelConfig(SequenceRecipe):
    """A sequence model that scores all items, and its training.

    `fit(config.model(num_items), config.batches(histories, num_items, seed), config.loss_terms,
    config.settings(seed, monitor=...), validate=...)` is the whole training.

    Attributes:
        backbone: "bert4rec" fills in masked items, the others foretell the next one at every step.
            HSTU goes without timestamps here. GRU4Rec has no heads: `num_heads` is nothing to it.
        items: What it reads and ranks: id embeddings, stored content through a linear layer, or
            both concatenated.

    Raises:
        ValueError: A value is out of range.
    """

    backbone: BackboneName = "sasrec"
    items: ItemInput = "ids"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, words in (("backbone", BackboneName), ("items", ItemInput)):
            if getattr(self, name) not in get_args(words):
                raise ValueError(
                    f"{name} must be one of {get_args(words)}, got {getattr(self, name)!r}"
                )

    @property
    def title(self) -> str:
        """What the model is called in tables, with what it reads: "SASRec, ids"."""
        return f"{BACKBONE_TITLES[self.backbone]}, {_ITEM_TITLES[self.items]}"

    def model(
        self, num_items: int, contents: Sequence[Float[Tensor, "items _"]] = ()
    ) -> StateBackbone:
        """Returns the untrained model; its weights come from torch's default generator.

        Args:
            num_items: Size of the catalogue.
            contents: Content embeddings, row i for item i, one array a modality; not read where
                `items` is "ids".

        Raises:
            ValueError: There is no content, though the items are to be read by it; or a size is
                out of range.
        """
        if self.items == "ids":
            table: nn.Module = ItemTable(num_items, self.dim)
        elif contents:
            table = item_table(self.items, contents, self.dim)
        else:
            raise ValueError(f"contents must be given where items is {self.items!r}, got none")
        options: dict[str, Any] = {
            "dim": self.dim,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "item_encoder": table,
            "similarity": self.similarity,
            "temperature": self.temperature,
        }
        if self.backbone != "gru4rec":  # recurrence has no heads, and no longest history
            options |= {"num_heads": self.num_heads, "history_length": self.history_length}
        return _BACKBONES[self.backbone](num_items, **options)

    def batches(self, histories: Histories, num_items: int, seed: int) -> SequenceBatches:
        """Returns what the model is trained on: whole sequences, with masked items for BERT4Rec.

        Args:
            histories: Item rows of each user, oldest first.
            num_items: Size of the catalogue, and the padding.
            seed: Draws the users where `data_share` is below 1, the order of the batches and the
                masks.

        Raises:
            ValueError: An item is not a row of the catalogue, or no history has two items.
        """
        kind = MaskedBatches if self.backbone == "bert4rec" else SequenceBatches
        return self.sequences(histories, num_items, seed, kind=kind)

    def loss_terms(self, model: StateBackbone, batch: Batch) -> dict[str, Tensor]:
        """Returns the named loss term that `fit` minimises, "next_item".

        It is the cross-entropy of the targets, against the negatives drawn or all items.

        Args:
            model: A model of this configuration.
            batch: A batch of this configuration, on the model's device.
        """
        loss = self.loss
        negatives = loss.draw(model.num_items, batch.history.device)
        vectors = model.item_vectors()
        states = model(batch.history, vectors)
        return {"next_item": loss(states, vectors, batch.targets, negatives)}
