"""Next Monday: a run that goes on from another, with new items and interactions.

Its stages are those of a run, filled otherwise; what the apps have in common of that is here. Texts
that stay keep their embeddings, others are embedded and brought to scale as the old run's were;
floors are counted anew; training goes on from the old weights over what is new and as much that is
old; answers are laid beside those of the old run, which is read alone. Beyond the papers.
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
"""Most of a training's steps that are warm-up."""

_DRIFT = ("drift", "refit", "drift_words")
"""What the comparison shows of the facts that `extended` notes."""

Recipe = TypeVar("Recipe", bound=TrainingRecipe)


@dataclass(frozen=True, kw_only=True)
class UpdateStages(Pipeline[Config]):
    """The stages of an update, beside those of a run of the app; complete, it is opened like any.

    Attributes:
        old: The run that it goes on from, reopened.
        update: What is done.
        news: What is new in the data.
        extends: Whether new items alone are new, and stand after all others.
    """

    ranks_new: ClassVar[str]
    """By what the parts rank new items until they are trained on, in words."""

    old: Pipeline[Any]
    update: Update
    news: News
    extends: bool = False

    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a run, and "update": the answers beside those of the old run."""
        run: tuple[Stage[Any], ...] = super().stages()  # type: ignore[safe-super]  # the app's
        return (*run, self.comparison)

    @cached_property
    def samples(self) -> Samples:
        """What is trained on."""
        return Samples.of(
            self.data.split, self.news, old_share=self.update.old_share, seed=self.config.seed
        )

    @property
    def trains(self) -> bool:
        """Whether there is anything to be trained on, and it is to be trained."""
        return self.update.train and self.samples.any

    # Embeddings: old items keep theirs where what is embedded of them is the same.

    def embedded(
        self,
        stage: Stage[Vectors],
        old: Stage[Vectors],
        fields: Sequence[str],
        keep_scale: Callable[[Stage[Vectors], Path], None],
        *,
        image_field: str = "image",
    ) -> Stage[Vectors]:
        """The stage of an embedding, filled by what embedded the old items.

        Args:
            stage: Of the update.
            old: The old run's.
            fields: The catalogue's fields that are embedded.
            keep_scale: Called with `old` and the stage's folder, to keep there what brings the old
                run's embeddings to scale.
            image_field: Of the fields, the one that holds images.
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
        """What embedded the old items: as it was fitted then."""
        device, kept = str(self.device), old.file("source")
        if kept.exists():
            return load_source(kept, device=device, trust=self.run.trust)
        if embedding == "lsa":
            raise ExperimentError(
                f"{self.old.run.path} keeps no words of its texts, since an older version made it: "
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

    # The floors: counted anew, nothing is chosen.

    @cached_property
    def floors(self) -> Stage[dict[str, Report]]:
        """The stage "floors", by the parameters that the old run chose."""
        return floors_stage(
            self,
            self.text_fields,
            reads=self.reads_text_fields,
            chosen=lambda: self.old.floors.complete()["parameters"],
            kept=self._kept_floors if self.extends else dict,
        )

    def _kept_floors(self) -> dict[str, ItemToItemFloor]:
        """The old run's floors, those that it keeps: they stay what they were."""
        stage = self.old.floors
        return kept_floors(
            stage, [name for name in kept_floor_names(stage) if name != "popularity"]
        )

    # Training: from the old weights, by the budget of an update.

    def trained_on(self, stage: Stage[Report], plan: Callable[[], DenseTraining]) -> Stage[Report]:
        """The stage of a training that scores the whole catalogue, filled as an update has it.

        Args:
            stage: Of a run.
            plan: As a run has it, but for the model, which has the old weights and has grown.
        """

        def fill(folder: Path) -> Facts:
            return train_dense(self, stage.folder_name, folder, self.updated(plan()))

        return replace(stage, fill=fill)

    def updated(self, plan: DenseTraining) -> DenseTraining:
        """A run's training with the batches and the budget of an update, or without training."""
        recipe, epochs = plan.training, self.update.epochs_one
        assert isinstance(recipe, SequenceRecipe)
        if not self.trains:
            return replace(plan, training=None)
        batches = self._batches(recipe, pairs=isinstance(plan.batches, PairBatches))
        training = self.budget(recipe, epochs=epochs, steps=len(batches))
        return replace(plan, batches=batches, training=training)

    def _batches(self, recipe: SequenceRecipe, *, pairs: bool) -> SequenceBatches | PairBatches:
        """The newest window of each user with new targets, and of as many others.

        Args:
            recipe: Of the training.
            pairs: Whether it goes over pairs: then all those with a new target, and as many others.
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
            recipe: The run's.
            epochs: Of the update.
            steps: In an epoch.
        """
        return replace(
            recipe,
            epochs=epochs,
            learning_rate=recipe.learning_rate * self.update.rate,
            warmup_steps=min(recipe.warmup_steps, int(_WARMUP_SHARE * (steps * epochs))),
            patience=epochs,
        )

    # What has changed.

    @property
    @abstractmethod
    def compared(self) -> tuple[Stage[Any], ...]:
        """The stages that the answers come from, and that of the codes where there are any."""

    def new_lists(self, queries: Queries) -> Lists:
        """The best items that the update answers to the users of the test."""
        with self.run.screen.bar("answers of the update") as bar:
            ids = self.data.catalog.item_ids
            return answered_lists(self.recommender(), queries, ids, progress=bar.update)

    def drift(self) -> Facts:
        """How far new items are from their codes, as `extended` notes it; nothing without codes."""
        facts = [stage.complete() for stage in self.compared]
        return {name: noted[name] for noted in facts for name in _DRIFT if name in noted}

    @cached_property
    def comparison(self) -> Stage[Facts]:
        """The stage "update": the answers beside those of the old run."""
        return update_stage(self)

    @property
    def summary(self) -> tuple[str, ...]:
        """What the update changed, in one line."""
        return (sentence(self.comparison.complete()),)


@dataclass(frozen=True, kw_only=True)
class AnsweringUpdate(UpdateStages[Config], AnsweringPipeline[Config]):
    """The stages of an update of a run whose model answers, or a floor that is ahead of it."""

    old: AnsweringPipeline[Any]

    def best(self, figures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
        """What is to answer: decided on the validation users of now; untrained, as before."""
        return super().best(figures) if self.trains else self.old.answering()

    @property
    def compared(self) -> tuple[Stage[Any], ...]:
        """The stages that the answers come from."""
        return (self.items, self.answer)


def extended(
    old: Tokenizer, catalog: Catalog, embeddings: Mapping[str, Vectors], update: Update
) -> tuple[Tokenizer, Facts]:
    """A tokenizer whose codes stay and which remembers the new items too, and what is noted of it.

    Args:
        old: The old run's.
        catalog: The items of now.
        embeddings: Theirs, by the tokenizer's views.
        update: It says from which drift on a new run is advised.
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
    """The refusal of a run that cannot grow.

    Args:
        path: The run's folder.
        reason: Names what of its configuration stands against it.
    """
    return ExperimentError(
        f"{path} cannot be updated: {reason}: begin a new run with the command run"
    )
