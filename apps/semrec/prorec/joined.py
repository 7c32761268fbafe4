"""The stages of what is joined to generation: candidates, their weights, the test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from evalrec import Queries, Report, evaluate, read_report
from genrec import ItemTable, Seq2Seq, item_scores, query_batches
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from semrec.prorec.config import Config
from semrec.prorec.joining import (
    Candidates,
    Scorer,
    candidates_of,
    generated,
    pick_weights,
    popularity_correction,
    scaled,
    seen_items,
)
from semrec.prorec.model import stage_one_model
from semrec.prorec.system import Pipeline
from semrec.shared.data import fit_and_test_floors, load_graph_floors
from semrec.shared.run import ExperimentError, load_tensors
from semrec.shared.training import dense_scorer, load_weights

RANKINGS = ("c_dis", "stage_one", "graph_text")
"""Features whose best items are candidates, too."""

_FLOORS = {"graph": "transition", "graph + text": "graph_text"}


def joined_stage(pipeline: Pipeline) -> str:
    """The stage of the joined test, complete or not; its facts hold the weights."""
    return pipeline.stage("joined", *_candidate_parts(pipeline), "joining", "evaluation.ks")


def joined(pipeline: Pipeline) -> Report:
    """The stage "joined": weights by NDCG@10 of the validation users, all items; then the test.

    What `recommend` needs of the features stays in the stage.
    """
    joining = pipeline.config.joining
    names = list(joining.features)

    validation, test = (candidate_stage(pipeline, part) for part in ("validation", "test"))

    def build(folder: Path) -> Mapping[str, Any]:
        found = load_candidates(pipeline, validation).on(joining.base)
        for name in names:
            if name not in found.features:
                raise ExperimentError(f"joining.{name} must be false: the items have no texts")
        choice = pick_weights(pipeline.validation, found, names)
        ranked = load_candidates(pipeline, test).on(joining.base).ranked(choice.weights)
        report = evaluate(pipeline.data.split.test, ranked, ks=pipeline.config.evaluation.ks)
        report.write_json(folder / "report.json")
        save_file(_features(pipeline), folder / "features.safetensors")
        return dataclasses.asdict(choice)

    name = joined_stage(pipeline)
    pipeline.run.stage(name, build)
    return read_report(pipeline.run.path / name / "report.json")


def load_candidates(pipeline: Pipeline, name: str) -> Candidates:
    """What a stage of `candidate_stage` left."""
    arrays = load_tensors(pipeline.run.path / name / "candidates.safetensors")
    features = pipeline.run.facts(name)["features"]
    return Candidates(
        items=arrays["items"],
        log_probs=arrays["log_probs"],
        features={feature: arrays[feature] for feature in features},
    )


def candidate_stage(pipeline: Pipeline, part: str) -> str:
    """The stage "candidates_validation" or "candidates_test": with every feature there is."""
    name = pipeline.stage(f"candidates_{part}", *_candidate_parts(pipeline))
    queries = pipeline.validation if part == "validation" else pipeline.data.split.test

    def build(folder: Path) -> Mapping[str, Any]:
        model, joining = pipeline.generator().eval(), pipeline.config.joining
        scorers = _scorers(pipeline, model)
        dense = dense_candidates(scorers, joining.candidates)
        beams = _beams(pipeline, model, part, queries)
        with pipeline.run.screen.bar(name) as bar:
            found = candidates_of(
                model, queries.histories, beams, scorers, dense=dense, progress=bar.update
            )
        arrays = {"items": found.items, "log_probs": found.log_probs, **found.features}
        save_file(arrays, folder / "candidates.safetensors")
        return {"features": list(scorers)}

    pipeline.run.stage(name, build)
    return name


def _candidate_parts(pipeline: Pipeline) -> tuple[str, ...]:
    beams = ("evaluation.num_beams", "joining.exact", "joining.candidates")
    return tuple(dict.fromkeys((*pipeline.stage_two_parts, *pipeline.stage_one_parts, *beams)))


def dense_candidates(scorers: Mapping[str, Scorer], count: int) -> dict[str, int]:
    """The rankings whose best items are candidates too, and how many of each."""
    return {name: count for name in RANKINGS if name in scorers and count}


def _beams(
    pipeline: Pipeline, model: Seq2Seq, part: str, queries: Queries
) -> tuple[Tensor, Tensor]:
    """What generation finds; for the test the stage "test" has it already."""
    exact = pipeline.config.joining.exact
    if part == "test" and not exact:
        pipeline.test()
        lists = load_tensors(pipeline.run.path / pipeline.test_stage / "lists.safetensors")
        return lists["items"], lists["log_probs"]
    with pipeline.run.screen.bar(f"generation, {part}") as bar:
        return generated(
            model,
            queries.histories,
            num_beams=pipeline.config.evaluation.num_beams,
            exact=exact,
            progress=bar.update,
        )


def _features(pipeline: Pipeline) -> dict[str, Tensor]:
    """What the features are computed from, so that the run alone can answer."""
    config, data = pipeline.config, pipeline.data
    found = {
        "counts": torch.from_numpy(data.popularity()),
        "semantic": pipeline.semantic.cpu().contiguous(),
    }
    if config.stage_two.distillation_state == "first":
        found["embeddings"] = pipeline.embeddings.cpu().contiguous()
    return found


def _scorers(pipeline: Pipeline, model: Seq2Seq) -> dict[str, Scorer]:
    """Every feature that this variant has."""
    config, data = pipeline.config, pipeline.data
    _ = pipeline.stage_one  # its weights are read below
    fit_and_test_floors(pipeline.run, data, config.text.fields, config.evaluation.ks)
    return load_scorers(
        config, model, _features(pipeline), pipeline.run.path, pipeline.stage_one_stage
    )


def load_scorers(
    config: Config, model: Seq2Seq, features: Mapping[str, Tensor], run: Path, stage_one: str
) -> dict[str, Scorer]:
    """The features' scorers.

    Args:
        config: The variant's configuration.
        model: The generator, in eval mode.
        features: What they are computed from, as the stage "joined" keeps it.
        run: The run.
        stage_one: The stage of stage I's model.
    """
    found: dict[str, Scorer] = {}
    device = model.trie.device
    if "embeddings" in features:
        found["c_dis"] = _dense_head(config, model, features["embeddings"].to(device))
    backbone = stage_one_model(config.stage_one, features["semantic"]).to(device)
    load_weights(run / stage_one / "weights.safetensors", backbone)
    items = ItemTable(backbone.num_items, backbone.dim).to(device)
    with torch.no_grad():  # once for all histories
        items.ids.copy_(backbone.item_vectors())
    backbone.item_encoder = items
    found["stage_one"] = dense_scorer(backbone.eval(), config.stage_one.history_length)
    for name, floor in load_graph_floors(run).items():
        found[_FLOORS[name]] = scaled(floor.score)
    found["popularity"] = popularity_correction(features["counts"].numpy())
    found["seen"] = seen_items(len(features["counts"]), config.stage_two.history_length)
    return found


def _dense_head(config: Config, model: Seq2Seq, vectors: Float[Tensor, "items dim"]) -> Scorer:
    """The state that knows the history alone, against the embeddings that it was distilled from."""
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
