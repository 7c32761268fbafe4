"""PRORec's stages in order: text embeddings, floors, stage I, codes, stage II, the test.

Each stage is named by what it depends on, so that variants of a run, as studies need them, share
all stages in which they agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from evalrec import Report, evaluate, read_report
from genrec import DIN, PairBatches, SASRec, Seq2Seq, SequenceBatches, Trie, fit, load_model
from genrec import save_model as save_generator
from jaxtyping import Float
from safetensors.torch import save_file
from semtok import Tokenizer, load_tokenizer, save_tokenizer
from torch import Tensor, nn

from semrec.prorec.config import Config, StageOne
from semrec.prorec.joining import generated
from semrec.prorec.model import (
    ItemEncoder,
    Tables,
    concatenated,
    integrated,
    stage_one_loss,
    stage_one_model,
    stage_two_loss,
)
from semrec.shared.data import (
    embed_texts,
    standardised,
)
from semrec.shared.item_tables import Items
from semrec.shared.rivals import Rival, RivalBackbone, train_rival
from semrec.shared.run import load_tensors
from semrec.shared.setting import Setting
from semrec.shared.training import DenseTraining, SequenceModel, dense_stage, ndcg, save_weights

_DENSE = ("evaluation.ks", "evaluation.validation_users")
_SIZES = tuple(field.name for field in dataclasses.fields(SequenceModel))
_SEQUENCE = tuple(f"stage_one.{name}" for name in _SIZES)
_WIDTH = ("text.dim", "text.further", "text.by_field")


@dataclass(frozen=True, kw_only=True)
class Pipeline(Setting):
    """The stages of a run, or of a variant of it that a study needs."""

    config: Config

    @cached_property
    def semantic(self) -> Float[Tensor, "items semantic_dim"]:
        """E_S, all views side by side, each after PCA and of unit variance overall."""
        views = [standardised(view.text(), self.config.text.dim) for view in self.views()]
        return torch.cat(views, dim=1).to(self.device)

    def views(self) -> list[Pipeline]:
        """A variant for each view of the text, which has that view alone."""
        text = self.config.text
        groups: list[tuple[str, ...]] = [text.fields]
        if text.by_field:
            known = self.data.catalog.fields
            groups = [(field,) for field in text.fields if field in known] or groups
        return [
            self.varied(text={"embedding": name, "fields": group, "further": (), "by_field": False})
            for name in (text.embedding, *text.further)
            for group in groups
        ]

    def text(self) -> Any:
        """The stage "text": the embeddings of one view, as they are."""
        return embed_texts(
            self.run,
            self.data,
            self.config.text.embedding,
            self.config.text.fields,
            device=str(self.device),
            seed=self.run.config["seed"],
            stage=self.text_stage,
        )

    @property
    def text_stage(self) -> str:
        """The stage of `text`, complete or not."""
        return self.stage("text", "text.embedding", "text.fields")

    @cached_property
    def stage_one(self) -> Tables:
        """The stage "stage_one": the item embeddings of the sequence model with alignment."""
        return self._train_one(self.stage_one_stage, self.config.stage_one)

    @property
    def stage_one_stage(self) -> str:
        """The stage of the sequence model, complete or not."""
        return self.stage("stage_one", *self.stage_one_parts)

    @property
    def stage_one_parts(self) -> tuple[str, ...]:
        """All but `integrated`, which says what becomes of the tables afterwards."""
        own = dataclasses.fields(StageOne)
        names = [f"stage_one.{field.name}" for field in own if field.name != "integrated"]
        return ("seed", "text", *names, *_DENSE)

    @cached_property
    def reference(self) -> Tables:
        """The stage "reference": the same sequence model on ids alone."""
        alone = dataclasses.replace(
            self.config.stage_one, alpha=0.0, item_input="collaborative", integrated="collaborative"
        )
        return self._train_one(self._reference_stage, alone)

    @property
    def _reference_stage(self) -> str:
        return self.stage("reference", *self._reference_parts)

    @property
    def _reference_parts(self) -> tuple[str, ...]:
        return ("seed", *_WIDTH, *_SEQUENCE, "stage_one.backbone", *_DENSE)

    def _train_one(self, name: str, config: StageOne) -> Tables:
        """A stage that trains a sequence model and tests its own ranking.

        Returns:
            Its item embeddings: "collaborative" (E_C) and "adapted" (E_T).
        """
        train, seed, num_items = self.data.split.train, self.config.seed, len(self.data.catalog)
        batches: PairBatches | SequenceBatches = (
            PairBatches(
                config.training_histories(train, seed),
                num_items=num_items,
                history_length=config.history_length,
                batch_size=config.batch_size,
                seed=seed,
                bucket=20,
            )
            if config.backbone == "din"
            else config.sequences(train, num_items, seed)
        )
        plan = DenseTraining(
            model=lambda: stage_one_model(config, self.semantic).to(self.device),
            loss=partial(stage_one_loss, config),
            batches=batches,
            training=config,
            history_length=config.history_length,
            validation=self.validation,
            test=self.data.split.test,
            ks=self.config.evaluation.ks,
            seed=seed,
            keep=_keep_items,
        )
        dense_stage(self.run, name, plan)
        return load_tensors(self.run.path / name / "items.safetensors")

    @cached_property
    def embeddings(self) -> Float[Tensor, "items dim"]:
        """The item embeddings that become codes."""
        source = self.config.codes.source
        if source == "integrated":
            return integrated(self.stage_one, self.config.stage_one.integrated)
        if source == "semantic":
            return self.semantic.cpu()
        collaborative = self.reference["collaborative"]
        if source == "collaborative":
            return collaborative
        return concatenated(self.semantic, collaborative, unit=source == "concatenated_unit")

    @property
    def _codes_parts(self) -> tuple[str, ...]:
        """What the codes depend on."""
        parts = {
            "integrated": (*self.stage_one_parts, "stage_one.integrated"),
            "semantic": ("text",),
            "collaborative": self._reference_parts,
        }.get(self.config.codes.source, ("text", *self._reference_parts))
        return tuple(dict.fromkeys(("seed", *parts, "codes")))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The stage "tokenizer": codes of the item embeddings."""
        codes, name = self.config.codes, self.stage("tokenizer", *self._codes_parts)

        def build(folder: Path) -> Mapping[str, Any]:
            with self.run.screen.bar("codes") as bar:
                tokenizer = Tokenizer.fit(
                    self.data.catalog,
                    embeddings=self.embeddings.numpy(),
                    quantizer=codes.fitting(self.config.seed),
                    policy=codes.policy,
                    progress=lambda _, done, total: bar.update(done, total),
                )
            save_tokenizer(folder / "tokenizer", tokenizer, overwrite=True)
            return {"levels": tokenizer.semantic_ids.num_levels}

        self.run.stage(name, build)
        return load_tokenizer(self.run.path / name / "tokenizer")

    @property
    def trie(self) -> Trie:
        """The catalogue's codes as a tree."""
        ids = self.tokenizer.semantic_ids
        return Trie.build(torch.from_numpy(ids.codes), ids.codebook_sizes)

    @property
    def stage_two_parts(self) -> tuple[str, ...]:
        """What the generator depends on."""
        return (
            *self._codes_parts,
            "stage_two",
            "evaluation.validation_users",
            "evaluation.validation_beams",
        )

    @property
    def generator_stage(self) -> str:
        """The stage of the encoder-decoder, complete or not."""
        return self.stage("stage_two", *self.stage_two_parts)

    def item_vectors(self) -> Float[Tensor, "items dim"] | None:
        """What the generator reads of the item embeddings, standardised; None if it reads none."""
        config = self.config.stage_two
        if config.history_input == "codes" and config.node_start != "vectors":
            return None
        standard = self.embeddings - self.embeddings.mean(dim=0)
        return standard / standard.std().clamp(min=1e-6)

    def generator(self) -> Seq2Seq:
        """The stage "stage_two": the encoder-decoder, which then lies in the folder "model"."""
        config, trie = self.config.stage_two, self.trie

        def build(folder: Path) -> Mapping[str, Any]:
            torch.manual_seed(self.config.seed)
            model = Seq2Seq(
                config.model(self.embeddings.shape[1]), trie, item_vectors=self.item_vectors()
            ).to(self.device)
            found = self.fit_generator(
                self.generator_stage,
                folder,
                model,
                partial(stage_two_loss, config, self.embeddings.to(self.device)),
                lambda histories, num_beams: generated(model, histories, num_beams=num_beams)[0],
            )
            save_generator(
                folder / "model",
                model,
                self.data.catalog.item_ids,
                popularity=torch.from_numpy(self.data.popularity()),
                info={"app": "prorec", "config": dataclasses.asdict(self.config)},
            )
            return found

        self.run.stage(self.generator_stage, build)
        return load_model(self.run.path / self.generator_stage / "model").model.to(self.device)

    def fit_generator(
        self, name: str, folder: Path, model: nn.Module, loss: Any, rank: Any
    ) -> Mapping[str, Any]:
        """Trains a model that generates codes, stopped early by NDCG@10 of its beam search.

        Args:
            name: The stage.
            folder: Where the training's log and checkpoints go.
            model: The model, on its device.
            loss: Loss terms of model and batch.
            rank: Lists of items, from histories and a number of beams.

        Returns:
            Facts about the training.
        """
        config, seed = self.config.stage_two, self.config.seed
        validation, num_beams = self.validation, self.config.evaluation.validation_beams
        batches = PairBatches(
            self.data.split.train,
            num_items=len(self.data.catalog),
            history_length=config.history_length,
            batch_size=config.batch_size,
            seed=seed,
            bucket=50,
        )

        def validate(_: nn.Module) -> dict[str, float]:
            return ndcg(evaluate(validation, rank(validation.histories, num_beams), ks=(10,)))

        with self.run.screen.bar(name) as bar:
            result = fit(
                model,
                batches,
                loss,
                config.settings(seed, monitor="ndcg@10"),
                validate=validate,
                folder=folder,
                callback=bar.training,
            )
        return {"best_epoch": result.best_epoch, "validation": result.metrics}

    def test(self) -> Report:
        """The stage "test": beam search for every user."""
        queries, evaluation, name = self.data.split.test, self.config.evaluation, self.test_stage
        model = self.generator()

        def build(folder: Path) -> Mapping[str, Any]:
            with self.run.screen.bar(name) as bar:
                items, log_probs = generated(
                    model, queries.histories, num_beams=evaluation.num_beams, progress=bar.update
                )
            save_file({"items": items, "log_probs": log_probs}, folder / "lists.safetensors")
            evaluate(queries, items, ks=evaluation.ks).write_json(folder / "report.json")
            return {}

        self.run.stage(name, build)
        return read_report(self.run.path / name / "report.json")

    @property
    def test_stage(self) -> str:
        """The stage of the test, complete or not."""
        tested = ("evaluation.ks", "evaluation.num_beams")
        return self.stage("test", *self.stage_two_parts, *tested)

    def rival(self, backbone: RivalBackbone, items: Items) -> Report:
        """A sequence model of stage I's sizes, budget and loss, on ids, text or both."""
        self.check_rivals()
        config = self.config.stage_one
        sizes = {name: getattr(config, name) for name in _SIZES}
        contents = [] if items == "ids" else [self.semantic]
        rival = Rival(backbone=backbone, items=items, **sizes)
        return train_rival(self, self.rival_stage(backbone, items), rival, contents)

    def check_rivals(self) -> None:
        """Raises ValueError where other sequence models cannot share stage I's sizes."""
        backbone = self.config.stage_one.backbone
        if backbone != "sasrec":
            raise ValueError(
                "stage_one.backbone must be 'sasrec' where other sequence models share its sizes, "
                f"got {backbone!r}"
            )

    def rival_stage(self, backbone: RivalBackbone, items: Items) -> str:
        """The stage of a rival, complete or not."""
        text = () if items == "ids" else ("text",)
        return self.stage(f"rival_{backbone}_{items}", "seed", *text, *_SEQUENCE, *_DENSE)


def _keep_items(model: SASRec | DIN, folder: Path) -> None:
    """Saves the item embeddings of stage I, and the model."""
    encoder = model.item_encoder
    assert isinstance(encoder, ItemEncoder)
    with torch.no_grad():
        tables = {"collaborative": encoder.collaborative.clone(), "adapted": encoder.adapted()}
    save_file({n: table.cpu() for n, table in tables.items()}, folder / "items.safetensors")
    save_weights(folder / "weights.safetensors", model)
