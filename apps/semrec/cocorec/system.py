"""CoCoRec's stages in order: views, codes, floors, the model, what is deployed, SASRec."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalrec import Report
from genrec import Backbone
from jaxtyping import Float, Int
from semtok import (
    Pca,
    ProductQuantizer,
    RandomCodes,
    ResidualQuantizer,
    SemanticIds,
    Tokenizer,
    load_tokenizer,
    measure_health,
    save_tokenizer,
)
from torch import Tensor

from semrec.cocorec.config import Config
from semrec.cocorec.deployed import Deployed, deployed, item_id_loss, load_deployed, with_item_ids
from semrec.cocorec.model import CoCoRec, cocorec_loss
from semrec.cocorec.report import BASELINES, MODEL, metrics, view_stages, write_page
from semrec.shared.data import embed_texts, fit_and_test_floors, keep_items, read_embedded
from semrec.shared.item_tables import Items
from semrec.shared.report import sections
from semrec.shared.rivals import Rival, train_rival
from semrec.shared.run import write_json
from semrec.shared.setting import Setting
from semrec.shared.training import DenseTraining, dense_stage, load_weights, save_weights

_QUANTIZERS: dict[str, Callable[..., Any]] = {
    "pq": ProductQuantizer.fit,
    "rq": ResidualQuantizer.fit,
}


@dataclass(frozen=True, kw_only=True)
class Pipeline(Setting):
    """The stages of a run, or of a variant of it that a study needs."""

    config: Config

    @cached_property
    def views(self) -> list[Float[np.ndarray, "items dim"]]:
        """Z^t, one array a view, reduced by PCA: from a stage each, such as "view_title"."""
        views = self.config.views
        vectors = []
        for name, fields in zip(view_stages(views), views.fields, strict=True):
            stage = self.stage(name, "views.embedding")
            embed_texts(
                self.run,
                self.data,
                views.embedding,
                fields,
                device=str(self.device),
                seed=self.run.config["seed"],
                stage=stage,
            )
            vectors.append(reduced(read_embedded(self.run.path, stage), views.dim, views.whiten))
        return vectors

    def codes(self) -> SemanticIds:
        """The semantic codes: the stage "tokenizer"."""
        codes = self.config.codes
        parts = ["seed", "views", "codes"]
        if codes.source in ("sasrec", "mixed"):
            parts += ["model", "evaluation"]
        stage = self.stage("tokenizer", *parts)

        def build(folder: Path) -> Mapping[str, Any]:
            fitted = self._tokenizers()
            for name, tokenizer in fitted.items():
                save_tokenizer(folder / name, tokenizer, overwrite=True)
            return {"sources": list(fitted)}

        sources = self.run.stage(stage, build)["sources"]
        return side_by_side(
            [load_tokenizer(self.run.path / stage / name).semantic_ids for name in sources]
        )

    def _tokenizers(self) -> dict[str, Tokenizer]:
        """What gives the codes, by where they come from."""
        views, codes = self.views, self.config.codes
        per_view, total = codes.codes_per_view, codes.codes_per_view * len(views)
        own = dict(zip(view_stages(self.config.views), views, strict=True))
        if codes.source == "random":
            # Over all views at once: items that share a brand are not to share a random code.
            fused = {"random": np.concatenate(views, axis=1)}
            return {"random": self._fit(fused, RandomCodes.fit, total)}
        quantizer, found = _QUANTIZERS[codes.quantizer], {}
        if codes.source in ("text", "mixed"):
            share = per_view if codes.source == "text" else per_view // 2
            found["text"] = self._fit(own, quantizer, share)
        if codes.source in ("sasrec", "mixed"):
            share = total if codes.source == "sasrec" else total // 2
            vectors = self._collaborative()
            # Product quantization wants stretches of equal length.
            width = vectors.shape[1] // share * share if codes.quantizer == "pq" else None
            vectors = reduced(vectors, width or vectors.shape[1], whiten=False)
            found["sasrec"] = self._fit({"sasrec": vectors}, quantizer, share)
        return found

    def _fit(
        self,
        vectors: Mapping[str, Float[np.ndarray, "items _"]],
        quantizer: Callable[..., Any],
        num_levels: int,
    ) -> Tokenizer:
        with self.run.screen.bar("codes") as bar:
            return Tokenizer.fit(
                self.data.catalog,
                embeddings=vectors,
                fuse=len(vectors) == 1,
                quantizer=partial(
                    quantizer,
                    num_levels=num_levels,
                    codebook_size=self.config.codes.codebook_size,
                    seed=self.config.seed,
                ),
                policy="allow",
                progress=lambda _, done, total: bar.update(done, total),
            )

    def _collaborative(self) -> Float[np.ndarray, "items dim"]:
        """The item embeddings of SASRec on ids."""
        self.baseline("ids")
        vectors: Float[np.ndarray, "items dim"] = (
            self.trained_baseline("ids").item_vectors().detach().cpu().numpy()
        )
        return vectors

    def cocorec(self) -> Report:
        """The stage "cocorec": trains the model and tests its ranking."""
        ids, views = self.codes(), self._view_tensor()
        plan = self._plan(
            lambda: build_model(self.config, ids, views).to(self.device),
            partial(cocorec_loss, self.config.model),
            self.config.model,
            keep=keep_model,
        )
        return dense_stage(self.run, self.model_stage("cocorec"), plan)

    def item_ids(self) -> Report:
        """The stage "item_ids": the frozen model and an id table, fine-tuned (section 3.4.5)."""
        self.cocorec()
        config = self.config.item_ids
        plan = self._plan(
            lambda: with_item_ids(self.deployed(), config).to(self.device),
            partial(item_id_loss, config),
            config,
            keep=lambda model, folder: save_weights(folder / "deployed.safetensors", model),
        )
        return dense_stage(self.run, self.model_stage("item_ids", "item_ids"), plan)

    def _plan(
        self, model: Callable[[], Any], loss: Any, training: Any, *, keep: Any
    ) -> DenseTraining:
        config = self.config
        return DenseTraining(
            model=model,
            loss=loss,
            batches=dataclasses.replace(config.model, batch_size=training.batch_size).batches(
                self.data.split.train, len(self.data.catalog), config.seed
            ),
            training=training,
            history_length=config.model.history_length,
            validation=self.validation,
            test=self.data.split.test,
            ks=config.evaluation.ks,
            seed=config.seed,
            keep=keep,
        )

    def rival(self, **changes: Any) -> Rival:
        """A sequence model of the same sizes, trained the same way, on ids or on the views."""
        names = {field.name for field in dataclasses.fields(Rival)}
        own = {name: value for name, value in vars(self.config.model).items() if name in names}
        dropout = self.config.evaluation.baseline_dropout
        if dropout is not None:
            own["dropout"] = dropout
        return Rival(**{**own, **changes})

    def baseline(self, items: Items, backbone: str = "sasrec") -> Report:
        """Another sequence model on ids, on the views' texts, or on both (table 3)."""
        return train_rival(
            self,
            self._baseline_stage(items, backbone),
            self.rival(items=items, backbone=backbone),
            self._contents(),
        )

    def trained_baseline(self, items: Items, backbone: str = "sasrec") -> Backbone:
        """The model that `baseline` trained."""
        config = self.rival(items=items, backbone=backbone)
        model = config.model(len(self.data.catalog), self._contents())
        folder = self.run.path / self._baseline_stage(items, backbone)
        load_weights(folder / "weights.safetensors", model)
        return model.eval()

    def _baseline_stage(self, items: Items, backbone: str = "sasrec") -> str:
        parts = ("model", "seed", "evaluation", *(("views",) if items != "ids" else ()))
        return self.stage(f"{backbone}_{items}", *parts)

    def _contents(self) -> list[Float[Tensor, "items dim"]]:
        return [torch.from_numpy(view).to(self.device) for view in self.views]

    def _view_tensor(self) -> Float[Tensor, "items views dim"]:
        return torch.from_numpy(np.stack(self.views, axis=1))

    def model_stage(self, name: str, *parts: str) -> str:
        """The name of a stage that trains CoCoRec, or what comes after."""
        return self.stage(name, "seed", "views", "codes", "model", "evaluation", *parts)

    def model(self) -> CoCoRec:
        """The trained model."""
        model = build_model(self.config, self.codes(), self._view_tensor())
        load_weights(self.run.path / self.model_stage("cocorec") / "weights.safetensors", model)
        return model.eval()

    def seconds_an_epoch(self) -> float:
        """How long the model's training took, validation left out."""
        return sections.seconds_an_epoch(self.run, self.model_stage("cocorec"))

    def deployed(self) -> Deployed:
        """The trained model without its semantic-fusion module."""
        return load_deployed(
            self.run.path / self.model_stage("cocorec") / "deployed.safetensors",
            self.config.model,
        )


def build_model(
    config: Config, ids: SemanticIds, views: Float[Tensor, "items views dim"]
) -> CoCoRec:
    """The model as it is before training."""
    return CoCoRec(config.model, torch.from_numpy(ids.codes), ids.codebook_sizes, views)


def keep_model(model: CoCoRec, folder: Path) -> None:
    """Saves a trained model, and what is deployed of it."""
    save_weights(folder / "weights.safetensors", model)
    save_weights(folder / "deployed.safetensors", deployed(model))


def reduced(
    vectors: Float[np.ndarray, "items _"], dim: int, whiten: bool
) -> Float[np.ndarray, "items dim"]:
    """The first principal components; zeros fill up what a narrow embedding lacks."""
    kept = min(dim, *vectors.shape)
    found = Pca.fit(vectors, dim=kept, whiten=whiten).transform(vectors)
    return np.pad(found, ((0, 0), (0, dim - kept)))


def side_by_side(parts: list[SemanticIds]) -> SemanticIds:
    """The codes of several tokenizers, one after the other."""
    if len(parts) == 1:
        return parts[0]
    codes: Int[np.ndarray, "items levels"] = np.concatenate([p.codes for p in parts], axis=1)
    return SemanticIds(
        codes=codes,
        codebook_sizes=tuple(size for part in parts for size in part.codebook_sizes),
        item_ids=parts[0].item_ids,
        allow_collisions=True,
    )


def run_stages(pipeline: Pipeline) -> dict[str, Report]:
    """Goes through the stages, skipping those that are complete; writes metrics and report.

    Returns:
        Test reports: the model, the baselines, the floors.
    """
    run, data, config = pipeline.run, pipeline.data, pipeline.config
    keep_items(run, data)
    fields = tuple(dict.fromkeys(name for names in config.views.fields for name in names))
    floors = fit_and_test_floors(run, data, fields, config.evaluation.ks)
    reports = {MODEL: pipeline.cocorec()}
    if config.evaluation.baselines:
        for items, title in BASELINES.items():
            reports[title] = pipeline.baseline(items)
    reports |= floors
    health = measure_health(pipeline.codes())
    write_json(run.path / "metrics.json", metrics(run, data, config, reports, health))
    write_page(run, data, config, reports, health, pipeline.deployed())
    return reports
