"""Recipes: how a model is trained, as a part of a system's configuration.

`genrec.TrainingConfig` is the argument of one call of `fit`, with the seed and the monitored
metric. A recipe is everything else: the hyperparameters that a table reports and a TOML file sets.
The configuration of a system inherits from the recipe that suits its model and adds fields;
`SequenceModelConfig` is the configuration of this library's sequence models.

Importing a recipe and checking its values imports no torch; making batches or a loss does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrec.config_checks import check_negatives, check_positive, check_similarity
from genrec.training_config import TrainingConfig

if TYPE_CHECKING:
    from genrec.next_item import NextItemLoss
    from genrec.sequences import PairBatches, SequenceBatches
    from genrec.windows import Histories


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """The training of any model; names have the same meaning as in `TrainingConfig`.

    Attributes:
        learning_rate: The learning rate after the warm-up.
        weight_decay: Weight decay of AdamW; 0 is Adam.
        warmup_steps: Steps in which the rate rises linearly.
        schedule: The rate after the warm-up: "constant", or "cosine" or "linear" down to 0 at the
            last step.
        gradient_clip: Largest norm of the gradients; 0 does not clip.
        batch_size: Samples in a batch.
        epochs: Largest number of passes over the batches.
        patience: Epochs without a better metric before training stops.

    Raises:
        ValueError: A value is out of range.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 200
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    gradient_clip: float = 1.0
    batch_size: int = 96
    epochs: int = 12
    patience: int = 3

    def __post_init__(self) -> None:
        check_positive(batch_size=self.batch_size)
        self.settings(0, monitor="any")  # checks the values

    def settings(self, seed: int, *, monitor: str | None) -> TrainingConfig:
        """Returns the configuration for `fit`.

        Args:
            seed: Seed of dropout and of sampled negatives.
            monitor: The metric of `validate` that is largest in the best epoch. None is for a
                training without validation: it runs all epochs, keeps the last weights and ignores
                `patience`.

        Raises:
            ValueError: The seed is below 0.
        """
        return TrainingConfig(
            epochs=self.epochs,
            optimizer="adamw" if self.weight_decay else "adam",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            schedule=self.schedule,
            gradient_clip=self.gradient_clip or None,
            patience=None if monitor is None else self.patience,
            monitor=monitor,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class NextItemRecipe(TrainingRecipe):
    """The training of a model that scores all items, by a full or a sampled softmax.

    Attributes:
        similarity: Similarity of states and item vectors.
        temperature: Divides the similarity.
        num_negatives: Number of negatives per batch, drawn uniformly, with logQ correction; 0 is
            the softmax over the whole catalogue.

    Raises:
        ValueError: A value is out of range.
    """

    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = 0.07
    num_negatives: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_similarity(self.similarity, self.temperature)
        check_negatives(self.num_negatives)

    @property
    def loss(self) -> NextItemLoss:
        """The next-item loss with these settings."""
        from genrec.next_item import NextItemLoss

        return NextItemLoss(
            similarity=self.similarity,
            temperature=self.temperature,
            num_negatives=self.num_negatives,
        )


@dataclass(frozen=True, kw_only=True)
class SequenceRecipe(NextItemRecipe):
    """The sizes and the training of a sequence model that scores all items.

    Attributes:
        dim: Width of states and item vectors.
        num_layers: Layers of the model.
        num_heads: Attention heads in each layer.
        dropout: Dropout probability.
        history_length: How many of the newest items of a history are read.
        data_share: Share of the users in the training, sampled with the seed.

    Raises:
        ValueError: A value is out of range.
    """

    dim: int = 128
    num_layers: int = 2
    num_heads: int = 4
    dropout: float = 0.4
    history_length: int = 20
    data_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(history_length=self.history_length)
        if not 0 < self.data_share <= 1:
            raise ValueError(f"data_share must be in (0, 1], got {self.data_share}")
        if self.dim < 1 or self.num_heads < 1 or self.dim % self.num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, got {self.dim} and {self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def training_histories(self, histories: Histories, seed: int) -> Histories:
        """Returns the histories of the users in the training, in their order.

        Args:
            histories: Item rows of each user, oldest first.
            seed: Seed of the sample of users, which has at least one user; ignored if `data_share`
                is 1.
        """
        if self.data_share == 1:
            return histories
        count = max(round(self.data_share * len(histories)), 1)
        users = np.random.default_rng(seed).choice(len(histories), size=count, replace=False)
        return [histories[user] for user in np.sort(users)]

    def sequences(
        self,
        histories: Histories,
        num_items: int,
        seed: int,
        *,
        kind: type[SequenceBatches] | None = None,
    ) -> SequenceBatches:
        """Returns training sequences; long ones are cut into windows that overlap by half.

        Args:
            histories: Item rows of each user, oldest first.
            num_items: Size of the catalogue, and the padding.
            seed: Seed of the order of the batches and, if `data_share` is below 1, of the sample of
                users.
            kind: `MaskedBatches`, or None for `SequenceBatches`, with a target at every position.

        Raises:
            ValueError: An item is not a row of the catalogue, or no history has two items.
        """
        from genrec.sequences import SequenceBatches

        return (kind or SequenceBatches)(
            self.training_histories(histories, seed),
            num_items=num_items,
            history_length=self.history_length,
            batch_size=self.batch_size,
            stride=max(self.history_length // 2, 1),
            seed=seed,
            bucket=20,
        )

    def pairs(
        self,
        histories: Histories,
        num_items: int,
        seed: int,
        *,
        kind: type[PairBatches] | None = None,
    ) -> PairBatches:
        """Returns every prefix of the same histories with its next item.

        Args:
            histories: Item rows of each user, oldest first.
            num_items: Size of the catalogue, and the padding.
            seed: Seed of the order of the batches and, if `data_share` is below 1, of the sample of
                users.
            kind: `TwinBatches`, or None for `PairBatches`.

        Raises:
            ValueError: An item is not a row of the catalogue, or no history has two items.
        """
        from genrec.sequences import PairBatches

        return (kind or PairBatches)(
            self.training_histories(histories, seed),
            num_items=num_items,
            history_length=self.history_length,
            batch_size=self.batch_size,
            seed=seed,
            bucket=20,
        )
