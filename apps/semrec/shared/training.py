"""The stages that train a model which scores all items: an app's model or a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evalrec import Report, evaluate, read_report
from genrec import (
    Backbone,
    Batch,
    PairBatches,
    SequenceBatches,
    SequenceModelConfig,
    TrainingRecipe,
    dense_scorer,
    fit,
    save_weights,
)
from jaxtyping import Float, Int
from torch import Tensor, nn

from semrec.shared.stage import Facts, Setting, Stage


def keep_weights(model: nn.Module, folder: Path) -> None:
    """Stores a trained model as "weights.safetensors"; the default of `DenseTraining.keep`."""
    save_weights(folder / "weights.safetensors", model)


@dataclass(frozen=True, kw_only=True)
class DenseTraining:
    """A model that scores the whole catalogue, and everything that its training needs.

    Attributes:
        model: Makes the model on the device of its training; called after seeding.
        loss: Returns the named loss terms of a batch.
        batches: The training batches.
        training: The recipe of the training; None tests the model without training.
        history_length: Most items of a history that it reads.
        keep: Called with the trained model and the stage's folder; stores the model.
        scored: Returns the part that scores histories: the model itself, or a precomputed form.
        facts: Returns facts about the trained model, JSON values only.
    """

    model: Callable[[], Backbone]
    loss: Callable[[Any, Batch], Mapping[str, Tensor]]
    batches: PairBatches | SequenceBatches
    training: TrainingRecipe | None
    history_length: int
    keep: Callable[[Any, Path], None] = keep_weights
    scored: Callable[[Any], Backbone] = lambda model: model
    facts: Callable[[Any], Mapping[str, Any]] = lambda _: {}


def train_dense(setting: Setting[Any], name: str, folder: Path, plan: DenseTraining) -> Facts:
    """Trains a model, tests its ranking of all items and stores it.

    Args:
        setting: The run; its configuration has the validation users and the cut-offs.
        name: The name in the progress and the report.
        folder: The folder of the stage.
        plan: The model and its training.

    Returns:
        Facts about the training. The test report is "report.json" in the folder.
    """
    torch.manual_seed(setting.config.seed)
    model, validation = plan.model(), setting.validation

    def scorer() -> Callable[[Any], Tensor]:
        return dense_scorer(plan.scored(model), plan.history_length)

    def validate(_: nn.Module) -> dict[str, float]:
        return ndcg(evaluate(validation, scorer(), ks=(10,)))

    if plan.training is None:
        facts: Facts = {"best_epoch": 0, "validation": validate(model.eval())}
    else:
        with setting.run.screen.bar(name) as bar, setting.run.curves.loggers(name) as loggers:
            result = fit(
                model,
                plan.batches,
                plan.loss,
                plan.training.settings(setting.config.seed, monitor="ndcg@10 filtered"),
                validate=validate,
                folder=folder,
                callback=bar.training,
                loggers=loggers,
            )
        facts = {"best_epoch": result.best_epoch, "validation": result.metrics}
    model.eval()
    report = evaluate(setting.data.split.test, scorer(), ks=setting.config.evaluation.ks, name=name)
    report.write_json(folder / "report.json")
    plan.keep(model, folder)
    return {**facts, **plan.facts(model)}


def dense_stage(
    setting: Setting[Any],
    name: str,
    plan: Callable[[], DenseTraining],
    *,
    reads: tuple[str, ...],
    after: tuple[Stage[Any], ...] = (),
) -> Stage[Report]:
    """A stage that trains a model which scores all items, and tests it.

    Args:
        setting: The run.
        name: The name of the stage.
        plan: Makes the model and its training, once the stages before it are complete.
        reads: The configuration keys that the model and its training read, except the seed and the
            keys of `evaluation` that every training reads.
        after: The stages whose results it uses.

    Returns:
        A stage whose result is the test report.
    """
    stage: Stage[Report] = setting.stage(
        name,
        reads=("seed", *reads, "evaluation.ks", "evaluation.validation_users"),
        after=after,
        fill=lambda folder: train_dense(setting, stage.folder_name, folder, plan()),
        load=lambda folder: read_report(folder / "report.json"),
        by_all=True,
    )
    return stage


def baseline_stage(
    setting: Setting[Any],
    name: str,
    config: SequenceModelConfig,
    contents: Callable[[], Sequence[Float[Tensor, "items _"]]],
    *,
    reads: tuple[str, ...],
    after: tuple[Stage[Any], ...] = (),
    codes: Callable[[], Int[Tensor, "items levels"]] | None = None,
) -> Stage[Report]:
    """A stage that trains a baseline sequence model and tests its ranking of all items.

    Args:
        setting: The run.
        name: The name of the stage.
        config: The configuration of the model.
        contents: Returns content embeddings, row i for item i, one array per modality; called only
            if the model reads content.
        reads: The configuration keys that determine the model and its contents.
        after: The stages that `contents` and `codes` use.
        codes: Returns the codes of each item, if the model reads content by its codes.

    Returns:
        A stage whose result is the test report; it stores "weights.safetensors".
    """

    def plan() -> DenseTraining:
        num_items = len(setting.data.catalog)

        def untrained() -> Backbone:
            if codes is not None:
                return config.model(num_items, codes=codes()).to(setting.device)
            read = contents() if config.items != "ids" else ()
            return config.model(num_items, read).to(setting.device)

        return DenseTraining(
            model=untrained,
            loss=config.loss_terms,
            batches=config.batches(setting.data.split.train, num_items, setting.config.seed),
            training=config,
            history_length=config.history_length,
        )

    return dense_stage(setting, name, plan, reads=reads, after=after)


def ndcg(report: Report) -> dict[str, float]:
    """The metrics of early stopping: NDCG@10 over all items, and with seen items filtered."""
    return {
        name: float(report.per_user("ndcg@10", mode).mean())
        for name, mode in (("ndcg@10", "unfiltered"), ("ndcg@10 filtered", "filtered"))
    }
