"""Updates: a run that continues from another run, with new items and interactions.

An update has the same stages as a run, but fills them in another way. This module has the parts
that all apps share. Unchanged texts keep their embeddings; others are embedded and scaled like
those of the old run. Floors are counted again. Training continues from the old weights on the new
samples and as many old ones. The answers are compared with those of the old run, which is only
read. Beyond the papers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from evalrec import ItemToItemFloor, Queries, Report
from genrec import PairBatches, SequenceBatches, SequenceRecipe, TrainingRecipe
from semtok import Catalog, EmbeddingSource, Tokenizer, embedding_source, is_stored, load_source

from semrec.shared.answering import AnsweringPipeline
from semrec.shared.comparing import Lists, answered_lists, sentence, update_stage
from semrec.shared.errors import ExperimentError
from semrec.shared.files import load_array, save_array
from semrec.shared.news import News, Samples
from semrec.shared.pipeline import Pipeline
from semrec.shared.stage import Config, Facts, Stage
from semrec.shared.stages import (
    Vectors,
    content_digests,
    floors_stage,
    keep_source,
    kept_floor_names,
    kept_floors,
)
from semrec.shared.training import DenseTraining, train_dense
from semrec.shared.update_config import Update

_WARMUP_SHARE = 0.2
"""The largest share of a training's steps that are warm-up."""

_DRIFT = ("drift", "refit", "drift_words")
"""The facts from `extended` that the comparison shows."""

Recipe = TypeVar("Recipe", bound=TrainingRecipe)


@dataclass(frozen=True, kw_only=True)
class UpdateStages(Pipeline[Config]):
    """The stages of an update, added to those of a run; a complete one is opened like any run.

    Attributes:
        old: The run that it continues from, reopened.
        update: The settings of the update.
        news: What is new in the data.
        extends: Whether the data differ only by new items, which come after all others.
    """

    ranks_new: ClassVar[str]
    """A text that says how new items are ranked before the next training."""

    old: Pipeline[Any]
    update: Update
    news: News
    extends: bool = False

    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a run, and "update": the comparison with the old run's answers."""
        run: tuple[Stage[Any], ...] = super().stages()  # type: ignore[safe-super]  # the app's
        return (*run, self.comparison)

    @cached_property
    def samples(self) -> Samples:
        """The training samples."""
        return Samples.of(
            self.data.split, self.news, old_share=self.update.old_share, seed=self.config.seed
        )

    @property
    def trains(self) -> bool:
        """Whether there are new samples and training is wanted."""
        return self.update.train and self.samples.any

    # Embeddings: items whose content has not changed keep theirs.

    def embedded(
        self,
        stage: Stage[Vectors],
        old: Stage[Vectors],
        fields: Sequence[str],
        keep_scale: Callable[[Stage[Vectors], Path], None],
        *,
        image_field: str = "image",
    ) -> Stage[Vectors]:
        """The stage of an embedding, filled by the embedding source of the old run.

        Args:
            stage: The stage of the update.
            old: The stage of the old run.
            fields: The catalogue's fields to embed.
            keep_scale: Called with `old` and the stage's folder; stores the old run's scale there.
            image_field: The one of the fields that holds images.
        """

        def fill(folder: Path) -> Facts:
            catalog, embedding = self.data.catalog, old.complete()["embedding"]
            source = self._source(old, embedding, fields, image_field)
            before = old.result()  # [old items, dim]
            rows = self.news.old_rows
            is_wanted = self.news.is_new.copy()
            contents = old.file("contents.npy")
            if contents.exists() and not is_stored(embedding):
                is_other = content_digests(source, catalog) != load_array(contents)[rows]
                is_wanted |= is_other
            vectors = before[rows]
            wanted = np.flatnonzero(is_wanted)
            if len(wanted):
                with self.run.screen.bar(f"{stage.name} embeddings") as bar:
                    if is_stored(embedding):
                        vectors[wanted] = source.embed(catalog, progress=bar.update)[wanted]
                    else:
                        items = catalog.take(wanted.tolist())
                        vectors[wanted] = source.embed(items, progress=bar.update)
            save_array(folder / "embeddings.npy", vectors)
            if not is_stored(embedding):
                keep_source(folder, source, catalog)
            keep_scale(old, folder)
            return {"embedding": embedding, "dim": vectors.shape[1], "embedded": len(wanted)}

        return replace(stage, fill=fill)

    def _source(
        self, old: Stage[Vectors], embedding: str, fields: Sequence[str], image_field: str
    ) -> EmbeddingSource:
        """The embedding source of the old items, as it was fitted then."""
        device, kept = str(self.device), old.file("source")
        if kept.exists():
            return load_source(kept, device=device, trust=self.run.trust)
        if embedding == "lsa":
            raise ExperimentError(
                f"{self.old.run.path} keeps no vocabulary of LSA, since an older version made it: "
                "begin a new run with the command run"
            )
        catalog = self.data.catalog
        return embedding_source(
            embedding,
            catalog=catalog,
            fields=[name for name in fields if name in catalog.fields],
            image_field=image_field,
            device=device,
            trust=self.run.trust,
        )

    # The floors: counted again, without choosing parameters.

    @cached_property
    def floors(self) -> Stage[dict[str, Report]]:
        """The stage "floors", with the parameters that the old run chose."""
        return floors_stage(
            self,
            self.text_fields,
            reads=self.reads_text_fields,
            chosen=lambda: self.old.floors.complete()["parameters"],
            kept=self._kept_floors if self.extends else dict,
        )

    def _kept_floors(self) -> dict[str, ItemToItemFloor]:
        """The stored floors of the old run, which do not change."""
        stage = self.old.floors
        return kept_floors(
            stage, [name for name in kept_floor_names(stage) if name != "popularity"]
        )

    # Training: from the old weights, with the budget of an update.

    def trained_on(self, stage: Stage[Report], plan: Callable[[], DenseTraining]) -> Stage[Report]:
        """The stage of a model that scores the whole catalogue, with the training of an update.

        Args:
            stage: The stage of a run.
            plan: The plan of a run, but its model has the old weights and rows for new items.
        """

        def fill(folder: Path) -> Facts:
            return train_dense(self, stage.folder_name, folder, self.updated(plan()))

        return replace(stage, fill=fill)

    def updated(self, plan: DenseTraining) -> DenseTraining:
        """A run's plan with the batches and the budget of an update, or without training."""
        recipe, epochs = plan.training, self.update.epochs_one
        assert isinstance(recipe, SequenceRecipe)
        if not self.trains:
            return replace(plan, training=None)
        batches = self._batches(recipe, pairs=isinstance(plan.batches, PairBatches))
        training = self.budget(recipe, epochs=epochs, steps=len(batches))
        return replace(plan, batches=batches, training=training)

    def _batches(self, recipe: SequenceRecipe, *, pairs: bool) -> SequenceBatches | PairBatches:
        """The newest window of each user with new targets, and of as many other users.

        Args:
            recipe: The recipe of the training.
            pairs: Whether to train on pairs: all pairs with a new target, and as many others.
        """
        recipe = replace(recipe, data_share=1.0)  # users are drawn here
        train, num_items, seed = self.data.split.train, len(self.data.catalog), self.config.seed
        if pairs:
            return recipe.pairs(train, num_items, seed).only(self.samples.pairs)
        length = recipe.history_length + 1
        windows = [train[user][-length:] for user in self.samples.users.tolist()]
        return recipe.sequences(windows, num_items, seed)

    def budget(self, recipe: Recipe, *, epochs: int, steps: int) -> Recipe:
        """A training's recipe with the budget of an update.

        Args:
            recipe: The recipe of the run.
            epochs: The epochs of the update.
            steps: The steps of an epoch.
        """
        return replace(
            recipe,
            epochs=epochs,
            learning_rate=recipe.learning_rate * self.update.rate,
            warmup_steps=min(recipe.warmup_steps, int(_WARMUP_SHARE * (steps * epochs))),
            patience=epochs,
        )

    # The comparison with the old run.

    @property
    @abstractmethod
    def compared(self) -> tuple[Stage[Any], ...]:
        """The stages that the answers come from, and the stage of the codes if there are any."""

    def new_lists(self, queries: Queries) -> Lists:
        """The best items of the update for the test users."""
        with self.run.screen.bar("answers of the update") as bar:
            ids = self.data.catalog.item_ids
            return answered_lists(self.recommender(), queries, ids, progress=bar.update)

    def drift(self) -> Facts:
        """The distance of new items from their codes, as in `extended`; empty without codes."""
        facts = [stage.complete() for stage in self.compared]
        return {name: noted[name] for noted in facts for name in _DRIFT if name in noted}

    @cached_property
    def comparison(self) -> Stage[Facts]:
        """The stage "update": the comparison with the old run's answers."""
        return update_stage(self)

    @property
    def summary(self) -> tuple[str, ...]:
        """One line that says what the update changed."""
        return (sentence(self.comparison.complete()),)


@dataclass(frozen=True, kw_only=True)
class AnsweringUpdate(UpdateStages[Config], AnsweringPipeline[Config]):
    """The stages of an update of a run that answers by its model or a better floor."""

    old: AnsweringPipeline[Any]

    def best(self, figures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
        """What shall answer: chosen on the current validation users; without training as before."""
        return super().best(figures) if self.trains else self.old.answering()

    @property
    def compared(self) -> tuple[Stage[Any], ...]:
        """The stages that the answers come from."""
        return (self.items, self.answer)


def extended(
    old: Tokenizer, catalog: Catalog, embeddings: Mapping[str, Vectors], update: Update
) -> tuple[Tokenizer, Facts]:
    """A tokenizer with the old codes and codes for new items, and facts about it.

    Args:
        old: The tokenizer of the old run.
        catalog: The current items.
        embeddings: Their embeddings, by the tokenizer's views.
        update: Its `refit_above` is the drift above which a new run is advised.
    """
    encoding = old.encode(catalog, embeddings=embeddings, refit_above=update.refit_above)
    drift = encoding.drift
    return old.extended(encoding.semantic_ids), {
        "new": 0 if drift is None else drift.num_new,
        "drift": None if drift is None else drift.ratio,
        "refit": drift is not None and drift.refit,
        "drift_words": "no new item" if drift is None else str(drift),
    }


def no_update(path: Path, reason: str) -> ExperimentError:
    """The error for a run that cannot be updated.

    Args:
        path: The run's folder.
        reason: The configuration value that prevents the update.
    """
    return ExperimentError(
        f"{path} cannot be updated: {reason}: begin a new run with the command run"
    )
