"""Updates of PRORec: a run that continues from another, with new items and interactions.

It has the same stages as a run, but fills them in another way. Published codes stay and new items
get free codes. The tables get rows for new items, initialised from their content. Training
continues from the old weights on the new samples and as many old ones. The old run is only read.
Beyond the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from evalrec import Candidates, Choice, Queries, Report
from genrec import (
    Backbone,
    PairBatches,
    Seq2Seq,
    TrainingRecipe,
    grown,
    load_model,
    load_weights,
)
from jaxtyping import Float
from semtok import Tokenizer, save_tokenizer
from torch import Tensor

from semrec.prorec.config import Config
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.joining import on_base
from semrec.prorec.model import ItemEncoder, stage_one_model, stage_two_loss
from semrec.shared.comparing import TOP, Lists
from semrec.shared.errors import ExperimentError
from semrec.shared.files import load_tensors, save_anew
from semrec.shared.stage import Facts, Stage
from semrec.shared.stages import Vectors
from semrec.shared.training import DenseTraining
from semrec.shared.updating import UpdateStages, extended, no_update


@dataclass(frozen=True, kw_only=True)
class UpdatePipeline(UpdateStages[Config], PRORecPipeline):
    """The stages of an update; a complete one is opened like any run.

    Attributes:
        old: The run that it continues from, reopened.
    """

    ranks_new: ClassVar[str] = "generation ranks them by codes and content, stage I by content"

    old: PRORecPipeline

    # E_S: items whose content has not changed keep their embeddings.

    @cached_property
    def texts(self) -> tuple[Stage[Vectors], ...]:
        """The stage "text", with the stored standardisation that scales new items like old ones."""
        stages = super().texts
        old = {text.folder_name: text for text in self.old.texts if text.is_complete}
        if set(old) != {text.folder_name for text in stages}:
            raise ExperimentError(
                "text.by_field: the items have other fields of text than those of "
                f"{self.old.run.path}: begin a new run with the command run"
            )

        def keep_scale(before: Stage[Vectors], folder: Path) -> None:
            save_anew(folder / "standardisation", self.old.standardisation(before).save)

        return tuple(
            self.embedded(text, old[text.folder_name], self.text_fields, keep_scale)
            for text in stages
        )

    # Stage I: E_C of new items starts at zero; E_T is the output of the current adaption layer.

    @cached_property
    def stage_one(self) -> Stage[Report]:
        """The stage "stage_one", from the old weights."""
        return self.trained_on(super().stage_one, self._plan)

    def _plan(self) -> DenseTraining:
        config = self.config.stage_one
        plan = self._stage_one_plan(config, lambda: ItemEncoder(self.semantic, config))
        return replace(plan, model=self._grown_stage_one)

    def _grown_stage_one(self) -> Backbone:
        config, rows = self.config.stage_one, torch.from_numpy(self.news.old_rows)
        before = ItemEncoder(self.old.semantic.cpu(), config)
        old = stage_one_model(config, before, self.run.trust)
        load_weights(self.old.stage_one.file("weights.safetensors"), old)
        weights = old.state_dict()
        name = "item_encoder.collaborative"
        table = weights[name][rows.clamp(min=0)]  # [items, dim]
        weights[name] = table.masked_fill(rows[:, None] < 0, 0.0)
        encoder = ItemEncoder(self.semantic, config)
        model = stage_one_model(config, encoder, self.run.trust).to(self.device)
        model.load_state_dict(weights)
        return model

    # Semantic IDs: published codes stay, new items get free ones.

    @cached_property
    def tokenizer(self) -> Stage[Tokenizer]:
        """The stage "tokenizer": the old tokenizer, extended by the new items."""

        def fill(folder: Path) -> Facts:
            old = self.old.tokenizer.result()
            embeddings = {old.views[0].name: self.embeddings.numpy()}
            tokenizer, facts = extended(old, self.data.catalog, embeddings, self.update)
            save_tokenizer(folder / "tokenizer", tokenizer, overwrite=True)
            return {"levels": tokenizer.semantic_ids.num_levels, **facts}

        return replace(super().tokenizer, fill=fill)

    # Stage II.

    @cached_property
    def stage_two(self) -> Stage[Seq2Seq]:
        """The stage "stage_two": the old generator, extended and trained without a teacher."""
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
        """The item embeddings with the scale of the old run."""
        if super().item_vectors() is None:
            return None
        old = self.old.embeddings
        mean = old.mean(dim=0)
        return (self.embeddings - mean) / (old - mean).std().clamp(min=1e-6)

    @property
    def generator_recipe(self) -> TrainingRecipe:
        """The recipe of the generator's further training."""
        steps = len(self.generator_batches())
        return self.budget(self.config.stage_two, epochs=self.update.epochs_two, steps=steps)

    def generator_batches(self) -> PairBatches:
        """All pairs with a new target, and as many others."""
        return super().generator_batches().only(self.samples.pairs)

    # Joined scores: weights are chosen again if anything was trained.

    def choices(self, candidates: Candidates) -> dict[str, Choice]:
        """Chosen on the current validation users; without training, those of the old run."""
        if self.trains:
            return super().choices(candidates)
        kept = self.old.joined.complete()
        base, weights = kept["base"], kept["weights"]
        based, targets = on_base(candidates, base), self.validation.targets
        without, reached = based.ndcg(targets, {}), based.ndcg(targets, weights)
        return {base: Choice(weights=weights, without=without, validation=reached)}

    # The comparison with the old run.

    @property
    def compared(self) -> tuple[Stage[Any], ...]:
        """The stage that the answers come from, and the codes."""
        return (self.joined if self.config.joining.any else self.test, self.tokenizer)

    def new_lists(self, queries: Queries) -> Lists:
        """The best items of the update, from the ranking of its test."""
        if not self.config.joining.any:
            lists = load_tensors(self.test.file("lists.safetensors"))
            return lists["items"][:, :TOP].numpy()
        choice = self.joined.complete()
        candidates = self.candidate_stages["test"].result()
        return on_base(candidates, choice["base"]).ranked(choice["weights"])[:, :TOP]


def updated_config(config: Config, path: Path) -> Config:
    """The configuration of an update: that of the run, without the reference on ids alone.

    Raises:
        ExperimentError: Vectors of new items cannot be made from their content, or nodes start at
            random.
    """
    first, two = config.stage_one, config.stage_two
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
    raise no_update(path, reason)
