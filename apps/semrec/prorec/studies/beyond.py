"""What lies beyond the paper, one by one: scores joined, exact search, smoothing, several views."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from evalrec import Report

from semrec.prorec.config import UNJOINED, Joining
from semrec.prorec.joined import joined, joined_stage
from semrec.prorec.report import MODEL
from semrec.prorec.system import Pipeline
from semrec.shared.studies import Outcome, tested


def joining(pipeline: Pipeline, seeds: Sequence[int]) -> Outcome:
    """Scores joined to generation and exact search: no training (beyond the paper)."""
    default = _default(pipeline)
    alone = pipeline.varied(joining=UNJOINED)
    stage_one = {"stage_one": True, "seen": True}
    joinings: dict[str, dict[str, Any]] = {
        "exact scores": {"exact": True},
        "seen items": {"seen": True},
        "stage I": stage_one,
        "stage I, its 50 best": {**stage_one, "candidates": 50},
        "transition prior": {"transition": True},
        "graph + text": {"graph_text": True},
        "popularity corrected": {"popularity": True},
        "all joined": default,
        "all joined, without stage I": {**default, "stage_one": False},
        "all joined, without graph + text": {**default, "graph_text": False},
        "all joined, without generation": {**default, "base": "stage_one", "stage_one": False},
    }
    if not default["graph_text"]:
        del joinings["graph + text"], joinings["all joined, without graph + text"]
    systems, facts = _joined(alone, joinings, seeds)
    return Outcome(
        title="joined scores",
        note="Beyond the paper: what is joined to the scores of generation; all joined is what a "
        "run does by default. Without generation the features are added to stage I's scores. On "
        f"validation: NDCG@10 of all items more than {MODEL}'s. Weights are picked there, 0 among "
        "them; those of the first seed.",
        systems={**tested({MODEL: alone}, seeds, Pipeline.test), **systems},
        facts=facts,
    )


def beyond(pipeline: Pipeline, seeds: Sequence[int]) -> Outcome:
    """Label smoothing, several views of the text, a dense item head (beyond the paper)."""
    alone = pipeline.varied(joining=UNJOINED)
    head = alone.varied(stage_two={"distillation_state": "first"})
    retrained = {
        MODEL: alone,
        "siblings' labels smoothed": alone.varied(stage_two={"label_smoothing": 0.1}),
        "each field a view": alone.varied(text={"by_field": True}),
        "dense item head": head,
    }
    joinings: dict[str, dict[str, Any]] = {
        "dense item head, joined": {"c_dis": True},
        "dense item head, all joined": {**_default(pipeline), "c_dis": True},
    }
    systems = tested(retrained, seeds, Pipeline.test)
    own = _validation(alone, seeds)
    facts: dict[str, dict[str, float | str]] = {
        name: {"on validation": f"{_validation(variant, seeds) - own:+.4f}"}
        for name, variant in retrained.items()
    }
    joined_systems, joined_facts = _joined(head, joinings, seeds)
    return Outcome(
        title="beyond the paper",
        note="What is not in the paper, one by one. On validation: NDCG@10 of all items more than "
        f"{MODEL}'s or, where scores are joined, than the same model's beam search.",
        systems=systems | joined_systems,
        facts=facts | joined_facts,
    )


def _default(pipeline: Pipeline) -> dict[str, Any]:
    """What a run joins by default: graph + text where items have texts."""
    texts = pipeline.data.texts(pipeline.config.text.fields)
    return dataclasses.asdict(Joining(graph_text=texts is not None))


def _joined(
    alone: Pipeline, joinings: Mapping[str, dict[str, Any]], seeds: Sequence[int]
) -> tuple[dict[str, list[Report]], dict[str, dict[str, float | str]]]:
    """Joined tests of a variant that joins nothing, and what each gains by which weights."""
    own = [alone.varied(seed=seed) for seed in seeds]
    before = _mean_validation(_tested(own)[1])
    systems: dict[str, list[Report]] = {}
    facts: dict[str, dict[str, float | str]] = {}
    for name, changes in joinings.items():
        systems[name], found = _tested([one.varied(joining=changes) for one in own])
        facts[name] = {
            "on validation": f"{_mean_validation(found) - before:+.4f}",
            "weights": ", ".join(f"{key} {value}" for key, value in found[0]["weights"].items()),
        }
    return systems, facts


def _tested(variants: Sequence[Pipeline]) -> tuple[list[Report], list[Mapping[str, Any]]]:
    """Joined tests, and the weights and the validation of each."""
    reports = [joined(variant) for variant in variants]
    return reports, [variant.run.facts(joined_stage(variant)) for variant in variants]


def _mean_validation(found: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(one["validation"] for one in found) / len(found))


def _validation(pipeline: Pipeline, seeds: Sequence[int]) -> float:
    """NDCG@10 of all items at the best epoch of stage II, the mean over seeds."""
    values = [
        pipeline.run.facts(pipeline.varied(seed=seed).generator_stage)["validation"]["ndcg@10"]
        for seed in seeds
    ]
    return float(sum(values) / len(values))
