"""PRORec next Monday: a run that goes on from another, with new items and interactions.

Its stages are those of a run, filled otherwise. Published codes stay, new items get free ones; the
tables grow by rows that start from the content, and training goes on from the old weights over what
is new and as much that is old. The old run is read alone. Beyond the paper.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalrec import Candidates, Choice, Report
from genrec import (
    DIN,
    PairBatches,
    SASRec,
    Seq2Seq,
    SequenceBatches,
    TrainingRecipe,
    grown,
    load_model,
    load_weights,
)
from jaxtyping import Float
from semtok import (
    EmbeddingSource,
    Tokenizer,
    embedding_source,
    is_stored,
    load_source,
    save_tokenizer,
)
from torch import Tensor

from semrec.prorec.comparing import sentence, update_stage
from semrec.prorec.config import Config
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.joining import on_base
from semrec.prorec.model import ItemEncoder, stage_one_loss, stage_one_model, stage_two_loss
from semrec.prorec.system import keep_items
from semrec.shared.errors import ExperimentError
from semrec.shared.files import load_array, save_array
from semrec.shared.news import News, Samples
from semrec.shared.stage import Facts, Stage
from semrec.shared.stages import Vectors, content_digests, floors_stage, keep_source
from semrec.shared.training import DenseTraining, train_dense
from semrec.shared.update_config import Update

_WARMUP_SHARE = 0.2
"""Most of a training's steps that are warm-up."""


@dataclass(frozen=True, kw_only=True)
class UpdatePipeline(PRORecPipeline):
    """The stages of an update; once complete, it is opened like any run.

    Attributes:
        old: The run that it goes on from, reopened.
        update: What is done.
        news: What is new in the data.
    """

    old: PRORecPipeline
    update: Update
    news: News

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

    # E_S: old items keep their embeddings where what is embedded of them is the same.

    @cached_property
    def texts(self) -> tuple[Stage[Vectors], ...]:
        """The stage "text"; what is kept with it brings new items to the scale of the old ones."""
        stages = super().texts
        old = {text.folder_name: text for text in self.old.texts if text.is_complete}
        if set(old) != {text.folder_name for text in stages}:
            raise ExperimentError(
                "text.by_field: the items have other fields of text than those of "
                f"{self.old.run.path}: begin a new run with the command run"
            )
        return tuple(
            replace(text, fill=partial(self._fill_text, old[text.folder_name])) for text in stages
        )

    def _fill_text(self, old: Stage[Vectors], folder: Path) -> Facts:
        catalog, embedding = self.data.catalog, old.complete()["embedding"]
        source = self._source(old, embedding)
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
            with self.run.screen.bar("text embeddings") as bar:
                if is_stored(embedding):
                    vectors[wanted] = source.embed(catalog, progress=bar.update)[wanted]
                else:
                    items = catalog.take(wanted.tolist())
                    vectors[wanted] = source.embed(items, progress=bar.update)
        save_array(folder / "embeddings.npy", vectors)
        if not is_stored(embedding):
            keep_source(folder, source, catalog)
        _save_anew(folder / "standardisation", self.old.standardisation(old).save)
        return {"embedding": embedding, "dim": vectors.shape[1], "embedded": len(wanted)}

    def _source(self, old: Stage[Vectors], embedding: str) -> EmbeddingSource:
        """What embedded the old items: as it was fitted then."""
        device, kept = str(self.device), old.file("source")
        if kept.exists():
            return load_source(kept, device=device)
        if embedding == "lsa":
            raise ExperimentError(
                f"{self.old.run.path} keeps no words of its texts, since an older version made it: "
                "begin a new run with the command run"
            )
        fields = tuple(f for f in self.text_fields if f in self.data.catalog.fields)
        return embedding_source(embedding, catalog=self.data.catalog, fields=fields, device=device)

    # The floors: counted anew, nothing is chosen.

    @cached_property
    def floors(self) -> Stage[dict[str, Report]]:
        """The stage "floors", by the parameters that the old run chose."""
        return floors_stage(
            self,
            self.text_fields,
            reads=self.reads_text_fields,
            chosen=lambda: self.old.floors.complete()["parameters"],
        )

    # Stage I: E_C of new items starts at zero, E_T is that of the adaption layer as it is.

    @cached_property
    def stage_one(self) -> Stage[Report]:
        """The stage "stage_one", from the weights of the old one."""

        def fill(folder: Path) -> Facts:
            return train_dense(self, stage.folder_name, folder, self._plan())

        stage = replace(super().stage_one, fill=fill)
        return stage

    def _plan(self) -> DenseTraining:
        config, batches = self.config.stage_one, self._stage_one_batches()
        steps = len(batches) * self.update.epochs_one
        return DenseTraining(
            model=self._grown_stage_one,
            loss=partial(stage_one_loss, config),
            batches=batches,
            training=self._recipe(config, self.update.epochs_one, steps) if self.trains else None,
            history_length=config.history_length,
            keep=keep_items,
        )

    def _grown_stage_one(self) -> SASRec | DIN:
        config, rows = self.config.stage_one, torch.from_numpy(self.news.old_rows)
        old = stage_one_model(config, ItemEncoder(self.old.semantic.cpu(), config))
        load_weights(self.old.stage_one.file("weights.safetensors"), old)
        weights = old.state_dict()
        name = "item_encoder.collaborative"
        table = weights[name][rows.clamp(min=0)]  # [items, dim]
        weights[name] = table.masked_fill(rows[:, None] < 0, 0.0)
        model = stage_one_model(config, ItemEncoder(self.semantic, config)).to(self.device)
        model.load_state_dict(weights)
        return model

    def _stage_one_batches(self) -> SequenceBatches | PairBatches:
        """The newest window of each user with new targets, and of as many others; DIN: pairs."""
        config = replace(self.config.stage_one, data_share=1.0)  # users are drawn here
        num_items = len(self.data.catalog)
        train, seed = self.data.split.train, self.config.seed
        if config.backbone == "din":
            pairs = config.pairs(train, num_items, seed)
            return pairs.only(self.samples.pairs) if self.trains else pairs
        users = self.samples.users.tolist() if self.trains else range(len(train))
        windows = [train[user][-config.history_length - 1 :] for user in users]
        return config.sequences(windows, num_items, seed)

    def _recipe(self, recipe: Any, epochs: int, steps: int) -> Any:
        """A training's recipe with the budget of an update."""
        return replace(
            recipe,
            epochs=epochs,
            learning_rate=recipe.learning_rate * self.update.rate,
            warmup_steps=min(recipe.warmup_steps, int(_WARMUP_SHARE * steps)),
            patience=epochs,
        )

    # Semantic IDs: published codes stay, new items get free ones.

    @cached_property
    def tokenizer(self) -> Stage[Tokenizer]:
        """The stage "tokenizer": the old one, which remembers the new items as well."""

        def fill(folder: Path) -> Facts:
            old = self.old.tokenizer.result()
            encoding = old.encode(
                self.data.catalog,
                embeddings={old.views[0].name: self.embeddings.numpy()},
                refit_above=self.update.refit_above,
            )
            tokenizer = old.extended(encoding.semantic_ids)
            save_tokenizer(folder / "tokenizer", tokenizer, overwrite=True)
            drift = encoding.drift
            return {
                "levels": tokenizer.semantic_ids.num_levels,
                "new": 0 if drift is None else drift.num_new,
                "drift": None if drift is None else drift.ratio,
                "refit": drift is not None and drift.refit,
                "drift_words": "no new item" if drift is None else str(drift),
            }

        return replace(super().tokenizer, fill=fill)

    # Stage II.

    @cached_property
    def stage_two(self) -> Stage[Seq2Seq]:
        """The stage "stage_two": the old generator, grown and trained on, without a teacher."""
        config = self.config.stage_two

        def fill(folder: Path) -> Facts:
            torch.manual_seed(self.config.seed)
            model = self._grown_generator().to(self.device)
            facts: Facts = {"best_epoch": 0}
            if self.trains:
                integrated = self.embeddings.to(self.device)
                loss = partial(stage_two_loss, config, integrated, None)
                facts = self.fit_generator(stage.folder_name, folder, model, loss)
            if self.trains and config.tree_scores:
                facts = {**facts, **self.calibrate(model)}
            self.save_generator(folder, model)
            return facts

        after: tuple[Stage[Any], ...] = (self.tokenizer, self.stage_one)
        if config.tree_scores:
            after = (*after, self.floors)
        stage = replace(super().stage_two, after=after, fill=fill)
        return stage

    def _grown_generator(self) -> Seq2Seq:
        config, backbone_vectors = self.config.stage_two, None
        if config.history_input == "backbone":
            with torch.no_grad():
                backbone_vectors = self.trained_backbone(self.semantic).item_vectors().cpu()
        return grown(
            load_model(self.old.stage_two.file("model")).model,
            self.trie,
            torch.from_numpy(self.news.old_rows),
            item_vectors=self.item_vectors(),
            backbone_vectors=backbone_vectors,
            item_graph=self.tree_graph() if config.tree_scores else None,
            item_counts=torch.from_numpy(self.data.split.item_counts),
        )

    def item_vectors(self) -> Float[Tensor, "items dim"] | None:
        """The item embeddings at the scale of the old run's."""
        if super().item_vectors() is None:
            return None
        old = self.old.embeddings
        mean = old.mean(dim=0)
        return (self.embeddings - mean) / (old - mean).std().clamp(min=1e-6)

    @property
    def generator_recipe(self) -> TrainingRecipe:
        """How the generator is trained on."""
        steps = len(self.generator_batches()) * self.update.epochs_two
        recipe: TrainingRecipe = self._recipe(self.config.stage_two, self.update.epochs_two, steps)
        return recipe

    def generator_batches(self) -> PairBatches:
        """All pairs with a new target, and as many others."""
        return super().generator_batches().only(self.samples.pairs)

    # What is joined: weights picked anew where anything was trained.

    def choices(self, candidates: Candidates) -> dict[str, Choice]:
        """Picked on the validation users of now; without training, those of the old run."""
        if self.trains:
            return super().choices(candidates)
        kept = self.old.joined.complete()
        base, weights = kept["base"], kept["weights"]
        based, targets = on_base(candidates, base), self.validation.targets
        without, reached = based.ndcg(targets, {}), based.ndcg(targets, weights)
        return {base: Choice(weights=weights, without=without, validation=reached)}

    # What has changed.

    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a run, and "update": the answers beside those of the old run."""
        return (*super().stages(), self.comparison)

    @cached_property
    def comparison(self) -> Stage[Facts]:
        """The stage "update"."""
        return update_stage(self)

    @property
    def summary(self) -> tuple[str, ...]:
        """What the update changed, in one line."""
        return (sentence(self.comparison.complete()),)


def updated_config(config: Config, path: Path) -> Config:
    """The configuration of an update: the run's, without the reference on ids alone.

    Raises:
        ExperimentError: Its vectors of new items cannot be made from their content, or its nodes
            start at random.
    """
    first, two, remedy = config.stage_one, config.stage_two, "begin a new run with the command run"
    if config.codes.source not in ("integrated", "semantic"):
        reason = f"codes.source is {config.codes.source!r}, and new items have no such vectors"
    elif not config.joining.any and config.codes.source == "semantic":
        reason = "it trained no stage I"
    elif "collaborative" in (first.item_input, first.integrated):
        reason = "stage I knows its items by ids alone, and new items have no trained vectors"
    elif two.output_vocabulary == "node" and two.node_start == "random":
        reason = 'stage_two.node_start is "random", so that new codes would have no trained rows'
    else:
        return replace(config, evaluation=replace(config.evaluation, reference=False))
    raise ExperimentError(f"{path} cannot be updated: {reason}: {remedy}")


def _save_anew(folder: Path, save: Callable[[Path], None]) -> None:
    """Saves a folder in the place of what an interrupted try left."""
    if folder.exists():
        shutil.rmtree(folder)
    save(folder)
