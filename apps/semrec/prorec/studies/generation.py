"""The steps from the paper's generator to the run's own (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from evalrec import Report, evaluate, read_report
from genrec import Ensemble, rank_histories

from semrec.prorec.config import PLAIN_STAGE_TWO, UNJOINED, StageTwo
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.studies.beyond import generator_validation
from semrec.prorec.system import MODEL
from semrec.shared.stage import Facts, Stage
from semrec.shared.studies import Outcome, tested

_CHOSEN_BY = "ndcg@10 filtered"

_BESIDE: dict[str, dict[str, dict[str, Any]]] = {
    "siblings smoothed": {"stage_two": {"label_smoothing": 0.1}},
    "taught by the similarity of vectors": {"stage_two": {"teacher": "vectors"}},
    "taught by stage I, cross-fitted": {"stage_two": {"teacher": "stage_one"}},
    "K = 512": {"codes": {"codebook_size": 512}},
    "K = 1,024": {"codes": {"codebook_size": 1024}},
    "four decoder layers": {"stage_two": {"num_decoder_layers": 4}},
}
"""The change of each row to the run's own configuration."""


def generation(pipeline: PRORecPipeline, seeds: Sequence[int]) -> Outcome:
    """The steps from the paper's generator to ours, and further changes (ours)."""
    alone = pipeline.varied(joining=UNJOINED)
    variants: dict[str, PRORecPipeline] = {MODEL: alone}
    changes = dict(PLAIN_STAGE_TWO)
    texts = alone.data.texts(alone.config.text.fields)
    for name, step in _steps(alone.config.stage_two).items():
        if texts is None and "text" in step.get("tree_scores", ()):
            continue
        changes |= step
        variants[name] = alone.varied(stage_two=changes)
    variants |= {name: alone.varied(seed=None, **parts) for name, parts in _BESIDE.items()}
    systems = tested(variants, seeds, attrgetter("test"))
    systems |= tested({"two trees": alone}, seeds, two_trees)
    facts = {
        name: {
            "validation NDCG@10": f"{generator_validation(variant, seeds, 'ndcg@10 filtered'):.4f}"
        }
        for name, variant in variants.items()
    }
    return Outcome(
        title="generation",
        note="Beyond the paper. The first row is the run's own generator. From the paper's "
        "generator on, each row adds one step to the row before; rows without stage I as encoder "
        "have as many epochs as stage I. The remaining rows change one thing in the run's own "
        "generator. On validation: seen items filtered. Two trees: a second generator with codes "
        "of another k-means seed; the items that either finds are ranked by the mean of log p.",
        systems=systems,
        facts=facts,
    )


def _steps(config: StageTwo) -> dict[str, dict[str, Any]]:
    """The change of each row to stage II, in addition to the rows before it."""
    return {
        "the paper's generator": {},
        "one decoder layer": {"num_decoder_layers": 1},
        "the newest state joins the first input": {"direct_path": True},
        "stage I reads the history": {
            "history_input": "backbone",
            "epochs": config.epochs,
            "warmup_steps": config.warmup_steps,
        },
        "the graph in the tree": {"tree_scores": ("graph",)},
        "text in the tree": {"tree_scores": ("graph", "text")},
    }


def two_trees(pipeline: PRORecPipeline) -> Stage[Report]:
    """The stage "two_trees": the run's generator and one with another draw of the codes."""
    stages = [pipeline.varied(codes={"draw": draw}).stage_two for draw in (0, 1)]

    def fill(folder: Path) -> Facts:
        evaluation, queries = pipeline.config.evaluation, pipeline.data.split.test
        model = Ensemble([stage.result() for stage in stages]).eval()
        with pipeline.run.screen.bar(joint.folder_name) as bar:
            ranked = rank_histories(
                model, queries.histories, num_beams=evaluation.num_beams, progress=bar.update
            )
        evaluate(queries, ranked.items, ks=evaluation.ks).write_json(folder / "report.json")
        return {}

    joint: Stage[Report] = pipeline.stage(
        "two_trees",
        reads=("evaluation.ks", "evaluation.num_beams"),
        after=tuple(stages),
        fill=fill,
        load=lambda folder: read_report(folder / "report.json"),
    )
    return joint
