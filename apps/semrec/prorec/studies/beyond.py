"""Extensions of the paper, one by one: joined scores, exact search, smoothing, several views."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from evalrec import Report

from semrec.prorec.config import UNJOINED, Joining
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.system import MODEL
from semrec.shared.stage import Stage
from semrec.shared.studies import Outcome, tested


def joining(pipeline: PRORecPipeline, seeds: Sequence[int]) -> Outcome:
    """Joined scores and exact search, without training (beyond the paper)."""
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
        "all joined, on generation": {**default, "base": "generation"},
        "all joined, without generation": {**default, "base": "stage_one", "stage_one": False},
    }
    if not default["graph_text"]:
        del joinings["graph + text"], joinings["all joined, without graph + text"]
    systems, facts = _joined(alone, joinings, seeds)
    return Outcome(
        title="joined scores",
        note="Beyond the paper: features joined to the scores of generation; all joined is the "
        "default of a run. Without generation the features are added to stage I's scores. On "
        f"validation: the gain in NDCG@10 over all items compared with {MODEL}. Weights are chosen "
        "there and may be 0; the table shows those of the first seed.",
        systems={**tested({MODEL: alone}, seeds, attrgetter("test")), **systems},
        facts=facts,
    )


def beyond(pipeline: PRORecPipeline, seeds: Sequence[int]) -> Outcome:
    """Label smoothing, several views of the text, a dense item head (beyond the paper)."""
    alone = pipeline.varied(joining=UNJOINED)
    head = alone.varied(stage_two={"distillation_state": "first"})
    retrained = {
        MODEL: alone,
        "siblings' labels smoothed": alone.varied(stage_two={"label_smoothing": 0.1}),
        "one view per field": alone.varied(text={"by_field": True}),
        "dense item head": head,
    }
    joinings: dict[str, dict[str, Any]] = {
        "dense item head, joined": {"c_dis": True},
        "dense item head, all joined": {**_default(pipeline), "c_dis": True},
    }
    systems = tested(retrained, seeds, attrgetter("test"))
    before = generator_validation(alone, seeds)
    facts: dict[str, dict[str, float | str]] = {
        name: {"on validation": f"{generator_validation(variant, seeds) - before:+.4f}"}
        for name, variant in retrained.items()
    }
    joined_systems, joined_facts = _joined(head, joinings, seeds)
    return Outcome(
        title="beyond the paper",
        note="Extensions of the paper, one by one. On validation: the gain in NDCG@10 over all "
        f"items compared with {MODEL}, or for joined scores with the same model's beam search.",
        systems=systems | joined_systems,
        facts=facts | joined_facts,
    )


def _default(pipeline: PRORecPipeline) -> dict[str, Any]:
    """The default joining of a run; graph + text only if items have texts."""
    texts = pipeline.data.texts(pipeline.config.text.fields)
    return dataclasses.asdict(Joining(graph_text=texts is not None))


def _joined(
    alone: PRORecPipeline, joinings: Mapping[str, dict[str, Any]], seeds: Sequence[int]
) -> tuple[dict[str, list[Report]], dict[str, dict[str, float | str]]]:
    """Tests joinings of a variant that joins nothing, with the gain and weights of each."""
    seeded = [alone.varied(seed=seed) for seed in seeds]
    before = _mean_validation([variant.joined for variant in seeded])
    systems: dict[str, list[Report]] = {}
    facts: dict[str, dict[str, float | str]] = {}
    for name, changes in joinings.items():
        stages = [variant.varied(joining=changes).joined for variant in seeded]
        systems[name] = [stage.result() for stage in stages]
        weights = stages[0].complete()["weights"]
        facts[name] = {
            "on validation": f"{_mean_validation(stages) - before:+.4f}",
            "base": stages[0].complete()["base"],
            "weights": ", ".join(f"{key} {value}" for key, value in weights.items()),
        }
    return systems, facts


def _mean_validation(stages: Sequence[Stage[Report]]) -> float:
    """The mean validation NDCG@10 over all items of joined stages."""
    return float(sum(stage.complete()["validation"] for stage in stages) / len(stages))


def generator_validation(
    pipeline: PRORecPipeline, seeds: Sequence[int], metric: str = "ndcg@10"
) -> float:
    """A validation metric at the best epoch of stage II, mean over seeds."""
    stages = [pipeline.varied(seed=seed).stage_two for seed in seeds]
    return float(sum(stage.complete()["validation"][metric] for stage in stages) / len(stages))
