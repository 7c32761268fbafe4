"""PRORec with further scores joined to generation: candidates, weights, the test.

Beyond the paper; `joining.py` defines the features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from evalrec import Candidates, Choice, Queries, Report, evaluate, pick_weights, read_report
from genrec import (
    DIN,
    Answers,
    DenseRecommender,
    ItemTable,
    Ranked,
    Recommender,
    Seq2Seq,
    dense_scorer,
    item_scores,
    load_model,
    load_weights,
    query_batches,
)
from jaxtyping import Float
from torch import Tensor

from semrec.prorec.config import Config
from semrec.prorec.joining import (
    GRIDS,
    Scorer,
    candidates_of,
    on_base,
    popularity_correction,
    scaled,
    seen_items,
)
from semrec.prorec.model import stage_one_model
from semrec.prorec.ranking import ranked_by_all
from semrec.prorec.recommender import JoinedRecommender, dense_candidates
from semrec.prorec.system import BACKBONES, MODEL, PaperPipeline
from semrec.shared.errors import ExperimentError
from semrec.shared.exporting import ItemIndex
from semrec.shared.files import load_tensors, save_tensors
from semrec.shared.stage import Facts, Stage
from semrec.shared.stages import kept_floors

_JOINED = f"{MODEL}, joined"
_FLOORS = {"graph": "transition", "graph + text": "graph_text"}


class PRORecPipeline(PaperPipeline):
    """The stages of a run: the paper's and those of joined scores."""

    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a run in order, without "data"."""
        config = self.config
        stages: list[Stage[Any]] = [*self.texts, self.floors]
        if config.has_reference:
            stages.append(self.reference)
        if config.joining.any or config.codes.source == "integrated":
            stages.append(self.stage_one)
        stages += [self.tokenizer, self.stage_two, self.test]
        if config.joining.any:
            stages += [*self.candidate_stages.values(), self.joined]
        return tuple(stages)

    def systems(self) -> dict[str, Stage[Report]]:
        """Generation, the joined scores, and sequence models."""
        config, systems = self.config, {MODEL: self.test}
        name = config.stage_one.backbone
        backbone = BACKBONES.get(name, name.rpartition(":")[2])
        if config.joining.any:
            systems[_JOINED] = self.joined
        if config.codes.source == "integrated":
            systems[f"stage I ({backbone}, ids and text)"] = self.stage_one
        if config.has_reference:
            systems[f"{backbone}, ids alone"] = self.reference
        return systems

    @property
    def answering_row(self) -> str:
        """The joined scores, or generation if nothing is joined."""
        return _JOINED if self.config.joining.any else MODEL

    @cached_property
    def candidate_stages(self) -> dict[str, Stage[Candidates]]:
        """The stages "candidates_validation" and "candidates_test", with all features."""
        return {
            "validation": self._candidate_stage("validation"),
            "test": self._candidate_stage("test"),
        }

    def _candidate_stage(self, part: Literal["validation", "test"]) -> Stage[Candidates]:
        exact = self.config.joining.exact
        generates = part == "validation" or exact  # otherwise the stage "test" has the beams

        def fill(folder: Path) -> Facts:
            queries = self.validation if part == "validation" else self.data.split.test
            model = self.stage_two.result().eval()
            scorers = self.scorers(model, self._features())
            beams = self._generated(model, part, queries) if generates else self._tested_beams()
            with self.run.screen.bar(stage.folder_name) as bar:
                candidates = candidates_of(
                    model,
                    queries.histories,
                    beams,
                    scorers,
                    dense=dense_candidates(scorers, self.config.joining.candidates),
                    progress=bar.update,
                )
            arrays = {"items": candidates.items, "log_probs": candidates.base}
            save_tensors(folder / "candidates.safetensors", {**arrays, **candidates.features})
            return {"features": list(scorers)}

        def load(folder: Path) -> Candidates:
            arrays = load_tensors(folder / "candidates.safetensors")
            items, log_probs = arrays.pop("items"), arrays.pop("log_probs")
            return Candidates(items=items, base=log_probs, features=arrays)

        stage: Stage[Candidates] = self.stage(
            f"candidates_{part}",
            reads=("evaluation.num_beams", "joining.exact", "joining.candidates"),
            after=(
                *([] if generates else [self.test]),
                self.stage_two,
                self.stage_one,
                self.floors,
            ),
            fill=fill,
            load=load,
            by_all=generates,
        )
        return stage

    def _tested_beams(self) -> Ranked:
        lists = load_tensors(self.test.file("lists.safetensors"))
        return Ranked(items=lists["items"], scores=lists["log_probs"])

    def _generated(self, model: Seq2Seq, part: str, queries: Queries) -> Ranked:
        with self.run.screen.bar(f"generation, {part}") as bar:
            return ranked_by_all(
                model,
                queries.histories,
                num_beams=self.config.evaluation.num_beams,
                exact=self.config.joining.exact,
                progress=bar.update,
            )

    @cached_property
    def joined(self) -> Stage[Report]:
        """The stage "joined": chooses base and weights by NDCG@10 on validation, then tests.

        Its facts hold both results; its folder stores what `recommend` needs for the features.
        """
        joining = self.config.joining
        validation, test = self.candidate_stages["validation"], self.candidate_stages["test"]

        def fill(folder: Path) -> Facts:
            candidates = validation.result()
            for name in joining.features:
                if name not in candidates.features:
                    raise ExperimentError(f"joining.{name} must be false: the items have no texts")
            choices = self.choices(candidates)
            base = max(choices, key=lambda name: choices[name].validation)  # the first of equals
            ranked = on_base(test.result(), base).ranked(choices[base].weights)
            report = evaluate(self.data.split.test, ranked, ks=self.config.evaluation.ks)
            report.write_json(folder / "report.json")
            save_tensors(folder / "features.safetensors", self._features())
            tried = {name: dataclasses.asdict(choice) for name, choice in choices.items()}
            return {"base": base, **tried[base], "bases": tried}

        return self.stage(
            "joined",
            reads=("joining", "evaluation.ks"),
            after=(validation, test),
            fill=fill,
            load=lambda folder: read_report(folder / "report.json"),
        )

    def choices(self, candidates: Candidates) -> dict[str, Choice]:
        """The features' weights for each base, chosen on the validation users."""
        joining = self.config.joining
        return {
            base: pick_weights(
                on_base(candidates, base),
                self.validation.targets,
                {name: GRIDS[name] for name in joining.features if name != base},
            )
            for base in joining.bases
        }

    def _features(self) -> dict[str, Tensor]:
        """The tensors that the features are computed from, for answers without the data."""
        features = {
            "counts": torch.from_numpy(self.data.split.item_counts),
            "semantic": self.semantic.cpu().contiguous(),
        }
        if self.config.stage_two.distillation_state == "first":
            features["embeddings"] = self.embeddings.cpu().contiguous()
        return features

    def scorers(self, model: Seq2Seq, features: Mapping[str, Tensor]) -> dict[str, Scorer]:
        """The scorers of the features.

        Args:
            model: The generator, in eval mode.
            features: The tensors that the stage "joined" stores.
        """
        config, device = self.config, model.trie.device
        scorers: dict[str, Scorer] = {}
        if "embeddings" in features:
            scorers["c_dis"] = _dense_head(config, model, features["embeddings"].to(device))
        backbone = self.trained_backbone(features["semantic"])
        scorers["stage_one"] = dense_scorer(backbone.eval(), config.stage_one.history_length)
        for name, floor in kept_floors(self.floors, tuple(_FLOORS)).items():
            scorers[_FLOORS[name]] = scaled(floor.score)
        scorers["popularity"] = popularity_correction(features["counts"].numpy())
        scorers["seen"] = seen_items(len(features["counts"]), config.stage_two.history_length)
        return scorers

    def recommender(self) -> Recommender | JoinedRecommender:
        """The recommender by joined scores, or by generation if nothing is joined."""
        joining, num_beams = self.config.joining, self.config.evaluation.num_beams
        folder = self.stage_two.file("model")
        if not joining.any:
            return Recommender.load(folder, device=self.device, num_beams=num_beams)
        saved = load_model(folder)
        model = saved.model.to(self.device).eval()
        choice = self.joined.complete()
        return JoinedRecommender(
            model,
            saved.item_ids,
            scorers=self.scorers(model, load_tensors(self.joined.file("features.safetensors"))),
            weights=choice["weights"],
            base=choice["base"],
            joining=joining,
            popularity=saved.popularity,
            num_beams=num_beams,
        )

    def recommender_of(self, stage: Stage[Report]) -> Answers:
        """The recommender by generation, by joined scores, or by a sequence model of stage I."""
        if stage.name == "joined":
            return self.recommender()
        if stage.name == "test":
            return Recommender.load(
                self.stage_two.file("model"),
                device=self.device,
                num_beams=self.config.evaluation.num_beams,
            )
        config = self.config.stage_one
        if stage.name == "stage_one":
            backbone = self.trained_backbone(self.semantic)
        else:
            items = ItemTable(len(self.item_ids), config.dim)
            backbone = stage_one_model(config, items, self.run.trust).to(self.device)
            load_weights(stage.file("weights.safetensors"), backbone)
        return DenseRecommender(
            backbone,
            self.item_ids,
            history_length=config.history_length,
            popularity=self.item_counts,
        )

    def item_index(self) -> ItemIndex:
        """The item vectors of stage I, or in a run without it the quantized vectors."""
        if not self.stage_one.is_complete:
            return ItemIndex.of_directions(self.embeddings, "the quantized vectors, of length 1")
        backbone = self.trained_backbone(self.semantic).eval()
        if isinstance(
            backbone, DIN
        ):  # compares each item with those of the history, and has no state
            return ItemIndex.of_directions(backbone.item_vectors(), "stage I's, of length 1")
        return ItemIndex.of_model(backbone, "stage I's", self.config.stage_one.history_length)

    def export_generator(self, folder: Path) -> dict[str, Any]:
        """Adds the generator, without joined scores."""
        from semrec.prorec.exporting import write_generator

        saved = load_model(self.stage_two.file("model"))
        num_beams = self.config.evaluation.num_beams
        return {"generator": write_generator(folder, saved, num_beams)}

    def vectors(self) -> dict[str, Float[np.ndarray, "items dim"]]:
        """E_S, "text", and the quantized vectors, "items"."""
        return {"text": self.semantic.cpu().numpy(), "items": self.embeddings.cpu().numpy()}


def _dense_head(config: Config, model: Seq2Seq, vectors: Float[Tensor, "items dim"]) -> Scorer:
    """Scores by the distilled state of the history, compared with the integrated embeddings."""
    stage_two = config.stage_two

    def score(histories: Any) -> Float[Tensor, "batch items"]:
        ((_, history),) = query_batches(
            histories,
            num_items=len(vectors),
            history_length=stage_two.history_length,
            batch_size=len(histories),
        )
        with torch.inference_mode():
            state = model.dense_state(model.encode(history.to(vectors.device)))
            return item_scores(
                state,
                vectors,
                similarity=stage_two.distillation_similarity,
                temperature=stage_two.distillation_temperature,
            )

    return score
