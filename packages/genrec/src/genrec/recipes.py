"""How a model is trained, as a part of a system's configuration: recipes that build on each other.

`genrec.TrainingConfig` is what one call of `fit` needs, with the seed and what is monitored. A
recipe is what stays when these change: what a table of hyperparameters reports, and what a TOML
file sets. A system's own configuration inherits from the recipe that suits its model and adds its
fields; `SequenceModelConfig` is the one of the sequence models of this library.

Importing a recipe, and refusing a wrong value of one, imports no torch: that waits until a recipe
is asked for batches or for a loss.
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
    """How any model is trained; names mean what they mean in `TrainingConfig`.

    Attributes:
        learning_rate: The rate after the warm-up.
        weight_decay: AdamW's; 0 is Adam.
        warmup_steps: Steps in which the rate climbs linearly.
        schedule: What follows: "constant", or down to 0 at the last step, "cosine" or "linear".
        gradient_clip: Most that the gradients' norm may be; 0 leaves them as they are.
        batch_size: Samples in a batch.
        epochs: Most passes over the batches.
        patience: Epochs without a better figure before training stops.

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
        self.settings(0, monitor="any")  # refuses what is out of range

    def settings(self, seed: int, *, monitor: str | None) -> TrainingConfig:
        """Returns what `fit` needs.

        Args:
            seed: Decides dropout and drawn negatives.
            monitor: The figure of `validate` that is greatest in the best epoch. None, for a
                training without validation, goes through all epochs and keeps the last weights;
                `patience` is not read then.

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
    """The training of a model that scores all items: the softmax, and what stands for it.

    Attributes:
        similarity: Of states and item vectors.
        temperature: Divides the similarity.
        num_negatives: Drawn uniformly for a batch, with logQ correction; 0 is the softmax over
            the whole catalogue.
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
        """The loss of next items by these settings."""
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
        num_heads: Attention heads in each.
        dropout: Dropout probability.
        history_length: Most items of a history that are read, the newest ones.
        data_share: Share of the users whose histories are trained on, drawn by the seed.
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
        """Returns the histories of the share of users that are trained on, in their order.

        Args:
            histories: Item rows of each user, oldest first.
            seed: Draws the users, at least one; all of them are taken without a draw.
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
            seed: Draws the users where `data_share` is below 1, and the order of the batches.
            kind: `SequenceBatches`, a prediction at every position, where None; or
                `MaskedBatches`.

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
            seed: Draws the users where `data_share` is below 1, and the order of the batches.
            kind: `PairBatches` where None, or `TwinBatches`.

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
