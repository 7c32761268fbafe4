"""Sequence models that the apps compare theirs with, on ids, on content or on both.

Each is one stage: trained on the same histories, chosen on the same validation users and tested as
everything else is. What they have in common, their sizes and their loss, is `Rival`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from evalrec import Report
from genrec import (
    HSTU,
    Batch,
    BERT4Rec,
    GRU4Rec,
    ItemTable,
    MaskedBatches,
    SASRec,
    SequenceBatches,
    StateBackbone,
)
from jaxtyping import Float
from torch import Tensor, nn

from semrec.shared.item_tables import Items, item_table
from semrec.shared.setting import Setting
from semrec.shared.training import DenseTraining, SequenceModel, dense_stage, save_weights

RivalBackbone = Literal["sasrec", "gru4rec", "bert4rec", "hstu"]

NAMES: dict[RivalBackbone, str] = {
    "sasrec": "SASRec",
    "gru4rec": "GRU4Rec",
    "bert4rec": "BERT4Rec",
    "hstu": "HSTU",
}
"""What the backbones are called in tables."""


@dataclass(frozen=True, kw_only=True)
class Rival(SequenceModel):
    """A sequence model that scores all items, and its training.

    Attributes:
        backbone: "bert4rec" fills in masked items, the others foretell the next one at every step.
            HSTU goes without timestamps here. GRU4Rec has no heads: `num_heads` is nothing to it.
        items: What it reads and ranks: id embeddings, stored content through a linear layer, or
            both concatenated.
    """

    backbone: RivalBackbone = "sasrec"
    items: Items = "ids"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, words in (("backbone", RivalBackbone), ("items", Items)):
            if getattr(self, name) not in get_args(words):
                raise ValueError(
                    f"{name} must be one of {get_args(words)}, got {getattr(self, name)!r}"
                )

    @property
    def title(self) -> str:
        """What it is called in tables."""
        read = {"ids": "ids", "content": "content", "both": "ids and content"}
        return f"{NAMES[self.backbone]}, {read[self.items]}"

    def model(
        self, num_items: int, contents: Sequence[Float[Tensor, "items _"]] = ()
    ) -> StateBackbone:
        """The untrained model.

        Args:
            num_items: Size of the catalogue.
            contents: Content embeddings, one array a modality; not read where `items` is "ids".

        Raises:
            ValueError: There is no content, though the items are to be read by it.
        """
        if self.items == "ids":
            table: nn.Module = ItemTable(num_items, self.dim)
        elif contents:
            table = item_table(self.items, contents, self.dim)
        else:
            raise ValueError(f"contents must be given where items is {self.items!r}, got none")
        shared: dict[str, Any] = {
            "dim": self.dim,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "item_encoder": table,
            "similarity": self.similarity,
            "temperature": self.temperature,
        }
        if self.backbone == "gru4rec":
            return GRU4Rec(num_items, **shared)
        shared |= {"num_heads": self.num_heads, "history_length": self.history_length}
        if self.backbone == "bert4rec":
            return BERT4Rec(num_items, **shared)
        if self.backbone == "hstu":
            return HSTU(num_items, **shared)
        return SASRec(num_items, **shared)

    def batches(self, histories: Sequence[Any], num_items: int, seed: int) -> SequenceBatches:
        """What it is trained on: whole sequences, with masked items for BERT4Rec."""
        if self.backbone != "bert4rec":
            return self.sequences(histories, num_items, seed)
        return MaskedBatches(
            self.training_histories(histories, seed),
            num_items=num_items,
            history_length=self.history_length,
            batch_size=self.batch_size,
            stride=max(self.history_length // 2, 1),
            seed=seed,
            bucket=20,
        )


def rival_loss(config: Rival, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The cross-entropy of the targets, against the negatives drawn or all items."""
    assert isinstance(model, StateBackbone)
    negatives = config.draw(model.num_items, batch.history.device)
    vectors = model.item_vectors()
    states = model(batch.history, vectors)
    return {"next_item": config.next_item(states, vectors, batch.targets, negatives)}


def train_rival(
    setting: Setting, name: str, config: Rival, contents: Sequence[Float[Tensor, "items _"]] = ()
) -> Report:
    """A stage that trains a rival and tests its ranking of all items.

    Args:
        setting: The run; its configuration has `seed` and, in `evaluation`, `ks` and
            `validation_users`.
        name: The stage, as `Setting.stage` names it.
        config: The rival.
        contents: Content embeddings, row i for item i, one array a modality.

    Returns:
        The test's report. The stage keeps the weights, "weights.safetensors".
    """
    num_items, seed = len(setting.data.catalog), setting.config.seed
    plan = DenseTraining(
        model=lambda: config.model(num_items, contents).to(setting.device),
        loss=partial(rival_loss, config),
        batches=config.batches(setting.data.split.train, num_items, seed),
        training=config,
        history_length=config.history_length,
        validation=setting.validation,
        test=setting.data.split.test,
        ks=setting.config.evaluation.ks,
        seed=seed,
        keep=lambda model, folder: save_weights(folder / "weights.safetensors", model),
    )
    return dense_stage(setting.run, name, plan)
