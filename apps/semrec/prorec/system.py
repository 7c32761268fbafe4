"""PRORec's stages in order: text, stage I, codes, stage II, the test by beam search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from evalrec import Report, evaluate, pair_shares, read_report
from genrec import (
    CODED_BACKBONES,
    DIN,
    Backbone,
    BackboneName,
    Batch,
    Ensemble,
    ItemGraph,
    ItemInput,
    ItemTable,
    PairBatches,
    SASRec,
    Seq2Seq,
    SequenceModelConfig,
    SequenceRecipe,
    StateBackbone,
    TrainingRecipe,
    Trie,
    calibrate,
    calibrated,
    dense_scorer,
    fit,
    load_model,
    load_weights,
    save_model,
)
from jaxtyping import Float, Int
from semtok import SemanticIds, Standardisation, Tokenizer, load_tokenizer, save_tokenizer
from torch import Tensor, nn

from semrec.prorec.config import Config, StageOne
from semrec.prorec.model import (
    ItemEncoder,
    Tables,
    Teacher,
    concatenated,
    folds_teacher,
    integrated,
    item_graph,
    stage_one_loss,
    stage_one_model,
    stage_two_loss,
    vectors_teacher,
)
from semrec.prorec.ranking import ranked_by_all
from semrec.shared.files import load_tensors, save_tensors
from semrec.shared.pipeline import Pipeline
from semrec.shared.stage import Facts, Stage
from semrec.shared.stages import Vectors, embedding_stage, kept_floors, kept_standardisation
from semrec.shared.training import (
    DenseTraining,
    baseline_stage,
    dense_stage,
    keep_weights,
    ndcg,
)

FOLDS = 2
"""The number of folds of users; each is scored by a teacher that was trained on the others."""

POPULARITY_WEIGHTS = (0.0, -0.1, -0.2, -0.3, -0.45, -0.6)
"""The weights of popularity in the tree that are tried."""

MODEL = "PRORec"
"""The model's row in tables."""

BACKBONES = {"sasrec": "SASRec", "din": "DIN"}
"""The names of stage I's sequence models in tables; others have the names of their classes."""

_TEXT = ("text.dim", "text.further", "text.by_field")
_SIZES = tuple(field.name for field in dataclasses.fields(SequenceRecipe))
_SEQUENCE = tuple(f"stage_one.{name}" for name in _SIZES)
_STAGE_ONE = tuple(
    f"stage_one.{field.name}"
    for field in dataclasses.fields(StageOne)
    # These affect only the later use of the item embeddings.
    if field.name not in ("integrated", "integrated_length")
)

GENERATOR_READS = (
    *("seed", "stage_two"),
    *("evaluation.validation_users", "evaluation.validation_beams"),
)
"""The configuration keys that the training of a generator reads."""


class PaperPipeline(Pipeline[Config]):
    """The paper's stages of a run, or of a variant of a run in a study."""

    judged_mode = "unfiltered"  # as for the choice of weights

    # E_S: the texts of the items.

    reads_text_fields = ("text.fields",)

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The fields that make an item's text."""
        return self.config.text.fields

    @cached_property
    def texts(self) -> tuple[Stage[Vectors], ...]:
        """The stages "text", one per view of the text: the embeddings before PCA and scaling."""
        text = self.config.text
        groups: list[tuple[str, ...]] = [text.fields]
        if text.by_field:
            # A run that answers reads no text and does not need the fields.
            known = text.fields if self.inputs is None else self.data.catalog.fields
            groups = [(field,) for field in text.fields if field in known] or groups
        stages = []
        for embedding in (text.embedding, *text.further):
            for fields in groups:
                view = {"embedding": embedding, "fields": fields, "further": (), "by_field": False}
                stages.append(
                    embedding_stage(
                        self.varied(text=view),
                        "text",
                        embedding,
                        fields,
                        reads=("text.embedding", "text.fields"),
                    )
                )
        return tuple(stages)

    @cached_property
    def semantic(self) -> Float[Tensor, "items semantic_dim"]:
        """E_S: all views concatenated, each after PCA and with unit variance overall."""
        views = [
            torch.from_numpy(self.standardisation(text).transform(text.result()))
            for text in self.texts
        ]
        return torch.cat(views, dim=1).to(self.device)

    def standardisation(self, text: Stage[Vectors]) -> Standardisation:
        """The standardisation of a view of the text: fitted on it, or stored by an update."""
        return kept_standardisation(text, self.config.text.dim)

    # Section 3.3: stage I, the sequence model with the alignment loss.

    @cached_property
    def stage_one(self) -> Stage[Report]:
        """The stage "stage_one": the sequence model, whose item embeddings are aligned with E_S."""
        config = self.config.stage_one
        return dense_stage(
            self,
            "stage_one",
            lambda: self._stage_one_plan(config, lambda: ItemEncoder(self.semantic, config)),
            reads=(*_TEXT, *_STAGE_ONE),
            after=self.texts,
        )

    @cached_property
    def reference(self) -> Stage[Report]:
        """The stage "reference": the same sequence model on ids alone."""
        config = self.config.stage_one

        def untrained_items() -> ItemTable:
            return ItemTable(len(self.data.catalog), config.dim)

        return dense_stage(
            self,
            "reference",
            lambda: self._stage_one_plan(config, untrained_items),
            reads=(*_SEQUENCE, "stage_one.backbone", "stage_one.recency"),
        )

    def _stage_one_plan(
        self,
        config: StageOne,
        untrained_items: Callable[[], ItemEncoder | ItemTable],
        histories: Sequence[Any] | None = None,
    ) -> DenseTraining:
        """The training of the sequence model, by default on the histories of all users."""
        train = self.data.split.train if histories is None else histories
        seed, num_items = self.config.seed, len(self.data.catalog)
        batches = config.pairs if config.backbone == "din" else config.sequences
        return DenseTraining(
            model=lambda: stage_one_model(config, untrained_items(), self.run.trust).to(
                self.device
            ),
            loss=partial(stage_one_loss, config),
            batches=batches(train, num_items, seed),
            training=config,
            history_length=config.history_length,
            keep=keep_items,
        )

    @property
    def collaborative(self) -> Float[Tensor, "items dim"]:
        """E_C of the model on ids alone: the collaborative modality."""
        return _tables(self.reference)["collaborative"]

    @cached_property
    def embeddings(self) -> Float[Tensor, "items dim"]:
        """The item embeddings that are quantized."""
        source = self.config.codes.source
        if source == "integrated":
            config = self.config.stage_one
            return integrated(_tables(self.stage_one), config.integrated, config.integrated_length)
        if source == "semantic":
            return self.semantic.cpu()
        if source == "collaborative":
            return self.collaborative
        return concatenated(self.semantic, self.collaborative, unit=source == "concatenated_unit")

    # Section 3.3: semantic IDs.

    @cached_property
    def tokenizer(self) -> Stage[Tokenizer]:
        """The stage "tokenizer": codes of the item embeddings."""
        codes = self.config.codes
        reads: tuple[str, ...] = ()
        after: tuple[Stage[Any], ...] = ()
        if codes.source == "integrated":
            reads = ("stage_one.integrated", "stage_one.integrated_length")
            after = (self.stage_one,)
        elif codes.source != "collaborative":
            reads, after = _TEXT, self.texts
        if codes.source not in ("integrated", "semantic"):
            after = (*after, self.reference)

        def fill(folder: Path) -> Facts:
            with self.run.screen.bar("codes") as bar:
                tokenizer = Tokenizer.fit(
                    self.data.catalog,
                    embeddings=self.embeddings.numpy(),
                    quantizer=codes.fitting(self.config.seed, self.run.trust),
                    policy=codes.policy,
                    progress=lambda _, done, total: bar.update(done, total),
                )
            save_tokenizer(folder / "tokenizer", tokenizer, overwrite=True)
            return {"levels": tokenizer.semantic_ids.num_levels}

        return self.stage(
            "tokenizer",
            reads=("seed", "codes", *reads),
            after=after,
            fill=fill,
            load=lambda folder: load_tokenizer(folder / "tokenizer", trust=self.run.trust),
        )

    def codes(self) -> SemanticIds:
        """The items' semantic IDs; the tokenizer may also hold those of removed items."""
        return self.tokenizer.result().semantic_ids.take(self.item_ids)

    @property
    def trie(self) -> Trie:
        """The catalogue's codes as a tree."""
        ids = self._catalogue_codes()
        return Trie.build(torch.from_numpy(ids.codes), ids.codebook_sizes)

    def _catalogue_codes(self) -> SemanticIds:
        """The codes of the data's items, for a stage that is being filled."""
        return self.tokenizer.result().semantic_ids.take(self.data.catalog.item_ids)

    # Section 3.4: stage II, generation with distillation.

    @cached_property
    def stage_two(self) -> Stage[Seq2Seq]:
        """The stage "stage_two": the encoder-decoder, which is stored in its folder "model"."""
        config = self.config.stage_two

        def fill(folder: Path) -> Facts:
            torch.manual_seed(self.config.seed)
            model = self.untrained_generator().to(self.device)
            integrated = self.embeddings.to(self.device)
            loss = partial(stage_two_loss, config, integrated, self.teacher(integrated))
            facts = self.fit_generator(self.stage_two.folder_name, folder, model, loss)
            if config.tree_scores:
                facts = {**facts, **self.calibrate(model)}
            self.save_generator(folder, model)
            return facts

        return self.stage(
            "stage_two",
            reads=GENERATOR_READS,
            after=(
                self.tokenizer,
                *([self.floors] if config.tree_scores else []),
                *([self.stage_one] if config.history_input == "backbone" else []),
                *(self.fold_stages if config.teacher == "stage_one" else ()),
            ),
            fill=fill,
            load=lambda folder: load_model(folder / "model").model.to(self.device),
            by_all=True,
        )

    def save_generator(self, folder: Path, model: Seq2Seq) -> None:
        """Writes the model folder "model" into the folder of stage II."""
        save_model(
            folder / "model",
            model,
            self.data.catalog.item_ids,
            popularity=torch.from_numpy(self.data.split.item_counts),
            info={"app": "prorec", "config": dataclasses.asdict(self.config)},
        )

    def calibrate(self, model: Seq2Seq) -> Facts:
        """Fits the weights of network, floors and popularity on the users of early stopping.

        The weights of network and floors maximise the likelihood. The weight of popularity, which
        corrects the catalogue's prior, maximises NDCG@10 with seen items filtered.
        """
        validation, numbers = self.validation, model.score_logits
        assert numbers is not None
        numbers.popularity.data.fill_(0.0)  # an update has the old run's value
        gain = calibrate(model, validation.histories, validation.targets)
        figures: dict[float, dict[str, float]] = {}
        with self.run.screen.bar("calibration") as bar:
            for tried, weight in enumerate(POPULARITY_WEIGHTS, start=1):
                numbers.popularity.data.fill_(weight)
                figures[weight] = self.validated(model)
                bar.update(tried, len(POPULARITY_WEIGHTS))
        # The first of equals, which is nearest to 0.
        best = max(figures, key=lambda weight: figures[weight]["ndcg@10 filtered"])
        numbers.popularity.data.fill_(best)
        calibration = {
            **dataclasses.asdict(gain),
            "scale": numbers.scale.tolist(),
            "weight": (10 * numbers.weight).tolist(),
            "popularity": best,
        }
        return {"calibration": calibration, "validation": figures[best]}

    def validated(self, model: Seq2Seq | Ensemble) -> dict[str, float]:
        """The metrics of early stopping, by beam search for the validation users."""
        validation, num_beams = self.validation, self.config.evaluation.validation_beams
        ranked = ranked_by_all(model, validation.histories, num_beams=num_beams)
        return ndcg(evaluate(validation, ranked.items, ks=(10,)))

    @cached_property
    def fold_stages(self) -> tuple[Stage[Report], ...]:
        """Stage I for each fold of the users, trained on the other folds, as a teacher."""
        config = self.config.stage_one

        def stage(fold: int) -> Stage[Report]:
            others = (self.fold_of != fold).nonzero().squeeze(1).tolist()
            return dense_stage(
                self,
                f"teacher_{fold}",
                lambda: self._stage_one_plan(
                    config,
                    lambda: ItemEncoder(self.semantic, config),
                    [self.data.split.train[user] for user in others],
                ),
                reads=(*_TEXT, *_STAGE_ONE),
                after=self.texts,
            )

        return tuple(stage(fold) for fold in range(FOLDS))

    @property
    def fold_of(self) -> Int[Tensor, " users"]:
        """The fold of each user, drawn by the seed."""
        generator = torch.Generator().manual_seed(self.config.seed)
        return torch.randperm(len(self.data.split.train), generator=generator) % FOLDS

    def teacher(self, integrated: Float[Tensor, "items dim"]) -> Teacher | None:
        """The second target of stage II; None without a teacher."""
        config = self.config.stage_two
        if config.teacher == "none":
            return None
        if config.teacher == "vectors":
            return vectors_teacher(nn.functional.normalize(integrated, dim=1))
        history_length = self.config.stage_one.history_length
        scorers = [
            dense_scorer(self.trained_backbone(self.semantic, stage).eval(), history_length)
            for stage in self.fold_stages
        ]
        return folds_teacher(scorers, self.fold_of, len(self.data.catalog))

    def untrained_generator(self) -> Seq2Seq:
        """The encoder-decoder before its training, with the configured floors and stage I."""
        config, graph = self.config.stage_two, None
        backbone: SASRec | None = None
        if config.tree_scores:
            graph = self.tree_graph()
        if config.history_input == "backbone":
            trained = self.trained_backbone(self.semantic)
            assert isinstance(trained, SASRec)  # the configuration checks it
            backbone = trained
        return Seq2Seq(
            config.model(self.embeddings.shape[1]),
            self.trie,
            item_vectors=self.item_vectors(),
            item_graph=graph,
            item_counts=None if graph is None else torch.from_numpy(self.data.split.item_counts),
            backbone=backbone,
        )

    def tree_graph(self) -> ItemGraph:
        """The floors whose scores the tree uses."""
        floors = kept_floors(self.floors, self.config.stage_two.tree_scores)
        return item_graph(floors, len(self.data.catalog))

    def trained_backbone(
        self, semantic: Float[Tensor, "items semantic_dim"], stage: Stage[Report] | None = None
    ) -> StateBackbone | DIN:
        """A trained sequence model of stage I, with its item vectors computed once into a table.

        Args:
            semantic: E_S.
            stage: The stage that trained it; None for stage I itself.
        """
        config = self.config.stage_one
        encoder = ItemEncoder(semantic, config)
        backbone = stage_one_model(config, encoder, self.run.trust).to(self.device)
        load_weights((stage or self.stage_one).file("weights.safetensors"), backbone)
        items = ItemTable(backbone.num_items, backbone.dim).to(self.device)
        with torch.no_grad():
            items.ids.copy_(backbone.item_vectors())
        backbone.item_encoder = items
        return backbone

    def item_vectors(self) -> Float[Tensor, "items dim"] | None:
        """The standardised item vectors that the generator reads; None if it reads none."""
        config = self.config.stage_two
        if config.history_input in ("codes", "backbone") and config.node_start != "vectors":
            return None
        standard = self.embeddings - self.embeddings.mean(dim=0)
        return standard / standard.std().clamp(min=1e-6)

    @property
    def generator_recipe(self) -> TrainingRecipe:
        """The recipe of a generator's training."""
        return self.config.stage_two

    def generator_batches(self) -> PairBatches:
        """The training batches of a generator: every prefix of a history with its next item."""
        config = self.config.stage_two
        return PairBatches(
            self.data.split.train,
            num_items=len(self.data.catalog),
            history_length=config.history_length,
            batch_size=config.batch_size,
            future_length=len(pair_shares()[0]) if "graph" in config.tree_scores else 0,
            seed=self.config.seed,
            bucket=50,
        )

    def fit_generator(
        self,
        name: str,
        folder: Path,
        model: Seq2Seq | Ensemble,
        loss: Callable[[nn.Module, Batch], Mapping[str, Tensor]],
    ) -> Facts:
        """Trains a model that generates codes, with early stopping by NDCG@10 of its beam search.

        Args:
            name: The name in the progress.
            folder: The folder of the training's log and checkpoints.
            model: The model, on its device.
            loss: Returns the loss terms of a model and a batch.

        Returns:
            Facts about the training.
        """
        validation = self.validation

        def validate(_: nn.Module) -> dict[str, float]:
            numbers: AbstractContextManager[object] = nullcontext()
            if isinstance(model, Seq2Seq) and model.score_logits is not None:
                numbers = calibrated(model, validation.histories, validation.targets)
            with numbers:  # an epoch is judged after the calibration of its tree
                return self.validated(model)

        with self.run.screen.bar(name) as bar, self.run.curves.loggers(name) as loggers:
            result = fit(
                model,
                self.generator_batches(),
                loss,
                self.generator_recipe.settings(self.config.seed, monitor="ndcg@10 filtered"),
                validate=validate,
                folder=folder,
                callback=bar.training,
                loggers=loggers,
            )
        return {"best_epoch": result.best_epoch, "validation": result.metrics}

    @cached_property
    def test(self) -> Stage[Report]:
        """The stage "test": beam search for every user."""
        evaluation = self.config.evaluation

        def fill(folder: Path) -> Facts:
            model, queries = self.stage_two.result().eval(), self.data.split.test
            with self.run.screen.bar(self.test.folder_name) as bar:
                ranked = ranked_by_all(
                    model,
                    queries.histories,
                    num_beams=evaluation.num_beams,
                    progress=bar.update,
                )
            lists = {"items": ranked.items, "log_probs": ranked.scores}
            save_tensors(folder / "lists.safetensors", lists)
            evaluate(queries, ranked.items, ks=evaluation.ks).write_json(folder / "report.json")
            return {}

        return self.stage(
            "test",
            reads=("evaluation.ks", "evaluation.num_beams"),
            after=(self.stage_two,),
            fill=fill,
            load=lambda folder: read_report(folder / "report.json"),
            by_all=True,
        )

    # Table 3: sequence models with the sizes, budget and loss of stage I.

    def rival(self, backbone: BackboneName, items: ItemInput) -> Stage[Report]:
        """The stage of a sequence model on ids, text or both, or on this variant's codes."""
        self.check_rivals()
        sizes = {name: getattr(self.config.stage_one, name) for name in _SIZES}
        reads_codes = backbone in CODED_BACKBONES
        reads_text = items != "ids" and not reads_codes
        return baseline_stage(
            self,
            f"rival_{backbone}_{items}",
            SequenceModelConfig(backbone=backbone, items=items, **sizes),
            lambda: [self.semantic],
            reads=(*_TEXT, *_SEQUENCE) if reads_text else _SEQUENCE,
            after=(self.tokenizer,) if reads_codes else self.texts if reads_text else (),
            codes=self._code_table if reads_codes else None,
        )

    def _code_table(self) -> Int[Tensor, "items levels"]:
        return torch.from_numpy(self._catalogue_codes().codes)

    def check_rivals(self) -> None:
        """Raises ValueError if other sequence models cannot share stage I's sizes."""
        backbone = self.config.stage_one.backbone
        if backbone != "sasrec":
            raise ValueError(
                "stage_one.backbone must be 'sasrec' if other sequence models share its sizes, "
                f"got {backbone!r}"
            )


def _tables(stage: Stage[Report]) -> Tables:
    """The item embeddings stored by a stage of a sequence model."""
    return load_tensors(stage.file("items.safetensors"))


def keep_items(model: Backbone, folder: Path) -> None:
    """Saves the item embeddings of stage I, and the model."""
    encoder = model.item_encoder
    with torch.no_grad():
        tables = (
            encoder.tables() if isinstance(encoder, ItemEncoder) else {"collaborative": encoder()}
        )
    save_tensors(folder / "items.safetensors", {n: table.cpu() for n, table in tables.items()})
    keep_weights(model, folder)
