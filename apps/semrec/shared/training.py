"""What trainings in the apps have in common: their settings, and models that score all items."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from evalrec import Queries, Report, evaluate, read_report
from genrec import (
    Backbone,
    Batch,
    PairBatches,
    SequenceBatches,
    TrainingConfig,
    fit,
    full_cross_entropy,
    query_batches,
    sample_negatives,
    sampled_cross_entropy,
)
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semrec.shared.configuration import check_at_least
from semrec.shared.run import ExperimentError, Run


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained; the names are those of `genrec.TrainingConfig`.

    Attributes:
        weight_decay: AdamW's; 0 is Adam.
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
        check_at_least(1, self, "batch_size")
        self.settings(0, monitor="any")

    def settings(self, seed: int, *, monitor: str) -> TrainingConfig:
        """What `genrec.fit` needs; the best epoch is the one with the greatest `monitor`."""
        return TrainingConfig(
            epochs=self.epochs,
            optimizer="adamw" if self.weight_decay else "adam",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            schedule=self.schedule,
            gradient_clip=self.gradient_clip,
            patience=self.patience,
            monitor=monitor,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class NextItem(Training):
    """The training of a model that scores all items: the softmax, and what stands for them.

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
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.num_negatives < 0:
            raise ValueError(f"num_negatives must be at least 0, got {self.num_negatives}")

    def draw(self, num_items: int, device: torch.device) -> Int[Tensor, " negatives"]:
        """The negatives of a batch; all items where the softmax is full."""
        if not self.num_negatives:
            return torch.arange(num_items, device=device)
        return sample_negatives(num_items, min(self.num_negatives, num_items), device=device)

    def rows(self, num_items: int, *parts: Int[Tensor, ...]) -> Int[Tensor, " rows"]:
        """The items that a batch needs, ascending, each once; padding left out."""
        rows: Tensor = torch.unique(torch.cat([part.flatten() for part in parts]))
        return rows[rows < num_items]

    def next_item(
        self,
        states: Float[Tensor, "*batch dim"],
        vectors: Float[Tensor, "items dim"],
        targets: Int[Tensor, "*batch"],
        negatives: Int[Tensor, " negatives"],
        num_items: int | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the targets, against the negatives drawn or all items.

        Args:
            states: What is compared with items.
            vectors: Of all items; where negatives are drawn, those of the batch will do.
            targets: Rows of `vectors`, their number for padding.
            negatives: Rows of `vectors`.
            num_items: Size of the catalogue, where `vectors` are of some of it.
        """
        how: Any = {"similarity": self.similarity, "temperature": self.temperature}
        if not self.num_negatives:
            return full_cross_entropy(states, vectors, targets, **how)
        log_q = torch.full(
            (len(vectors),), -math.log(num_items or len(vectors)), device=vectors.device
        )
        return sampled_cross_entropy(states, vectors, targets, negatives, log_q=log_q, **how)


@dataclass(frozen=True, kw_only=True)
class SequenceModel(NextItem):
    """The sizes and the training of a self-attention model that scores all items.

    Attributes:
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
        check_at_least(1, self, "history_length")
        if not 0 < self.data_share <= 1:
            raise ValueError(f"data_share must be in (0, 1], got {self.data_share}")
        if self.dim < 1 or self.num_heads < 1 or self.dim % self.num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, got {self.dim} and {self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def training_histories(
        self, histories: Sequence[Int[np.ndarray, " length"]], seed: int
    ) -> Sequence[Int[np.ndarray, " length"]]:
        """The histories of the share of users that are trained on."""
        if self.data_share == 1:
            return histories
        count = max(round(self.data_share * len(histories)), 1)
        users = np.random.default_rng(seed).choice(len(histories), size=count, replace=False)
        return [histories[user] for user in np.sort(users)]

    def sequences(
        self, histories: Sequence[Int[np.ndarray, " length"]], num_items: int, seed: int
    ) -> SequenceBatches:
        """Training sequences, a prediction at every step; long ones in windows that overlap."""
        return SequenceBatches(
            self.training_histories(histories, seed),
            num_items=num_items,
            history_length=self.history_length,
            batch_size=self.batch_size,
            stride=max(self.history_length // 2, 1),
            seed=seed,
            bucket=20,
        )


@dataclass(frozen=True, kw_only=True)
class DenseTraining:
    """A model that scores the whole catalogue, and all that its training needs.

    Attributes:
        model: Makes the model, where it is to be trained; called after seeding.
        loss: Named loss terms of a batch.
        batches: What it is trained on.
        training: How.
        history_length: Most items of a history that it reads.
        validation: The users on whom early stopping decides, by filtered NDCG@10.
        test: The users of the test.
        ks: Cut-offs of the test.
        seed: Decides all that is drawn.
        keep: Called with the trained model and the stage's folder, to save what is to stay.
        scored: What of the model scores histories: the model itself, or what is precomputed of it.
        facts: What is to be known of the trained model, JSON values only.
    """

    model: Callable[[], Backbone]
    loss: Callable[[Any, Batch], Mapping[str, Tensor]]
    batches: PairBatches | SequenceBatches
    training: Training
    history_length: int
    validation: Queries
    test: Queries
    ks: tuple[int, ...]
    seed: int
    keep: Callable[[Any, Path], None]
    scored: Callable[[Any], Backbone] = lambda model: model
    facts: Callable[[Any], Mapping[str, Any]] = lambda _: {}


def dense_stage(run: Run, name: str, plan: DenseTraining) -> Report:
    """A stage that trains a model, tests its ranking of all items and keeps what `plan` says."""

    def build(folder: Path) -> Mapping[str, Any]:
        torch.manual_seed(plan.seed)
        model = plan.model()

        def scorer() -> Callable[[Any], Tensor]:
            return dense_scorer(plan.scored(model), plan.history_length)

        def validate(_: nn.Module) -> dict[str, float]:
            return ndcg(evaluate(plan.validation, scorer(), ks=(10,)))

        with run.screen.bar(name) as bar:
            result = fit(
                model,
                plan.batches,
                plan.loss,
                plan.training.settings(plan.seed, monitor="ndcg@10 filtered"),
                validate=validate,
                folder=folder,
                callback=bar.training,
            )
        model.eval()
        evaluate(plan.test, scorer(), ks=plan.ks, name=name).write_json(folder / "report.json")
        plan.keep(model, folder)
        facts = {"best_epoch": result.best_epoch, "validation": result.metrics}
        return facts | dict(plan.facts(model))

    run.stage(name, build)
    return read_report(run.path / name / "report.json")


def dense_scorer(model: Backbone, history_length: int) -> Callable[[Any], Tensor]:
    """Returns what `evaluate` asks for: scores of all items for some histories."""
    device = next(model.parameters()).device

    @torch.inference_mode()
    def score(histories: Any) -> Tensor:
        batches = query_batches(
            histories,
            num_items=model.num_items,
            history_length=history_length,
            batch_size=max(len(histories), 1),
        )
        return torch.cat([model.score(history.to(device)) for _, history in batches])

    return score


def save_weights(path: Path, model: nn.Module) -> None:
    """Writes a model's weights as safetensors."""
    save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, path)


def load_weights(path: Path, model: nn.Module) -> None:
    """Gives a model the weights in a file.

    Raises:
        ExperimentError: The file is damaged, or of another model.
    """
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ExperimentError(f"{path}: not this model's weights: {error}") from error


def ndcg(report: Report) -> dict[str, float]:
    """What early stopping looks at: NDCG@10 of all items, and with seen items filtered."""
    return {
        name: float(report.per_user("ndcg@10", mode).mean())
        for name, mode in (("ndcg@10", "unfiltered"), ("ndcg@10 filtered", "filtered"))
    }
