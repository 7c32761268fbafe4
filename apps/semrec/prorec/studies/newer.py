"""Rivals that are newer than the paper: RPG, EnsRec and LIGER, tuned like those of table 3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evalrec import Report, evaluate, read_report
from genrec import LIGER, rank_histories

from semrec.prorec.config import PLAIN_STAGE_TWO, UNJOINED
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.studies.rivals import (
    GENERATOR_TRIALS,
    Contestant,
    chosen_facts,
    contest,
    dense_rival,
    prorec,
)
from semrec.prorec.system import MODEL
from semrec.shared.stage import Facts, Stage
from semrec.shared.studies import Outcome
from semrec.shared.training import ndcg

_RPG_LEVELS = 32


def newer(
    pipeline: PRORecPipeline, seeds: Sequence[int], *, values: Sequence[int] = (4,)
) -> Outcome:
    """RPG, EnsRec, LIGER, which the paper does not name (ours); --values: trials of each."""
    pipeline.check_rivals()
    pipeline = pipeline.varied(joining=UNJOINED)
    contestants = {
        MODEL: prorec(pipeline),
        "RPG, codes of the text": dense_rival(with_rpg_codes(pipeline), "rpg", "content"),
        "EnsRec, ids and text": dense_rival(pipeline, "ensrec", "both"),
        "LIGER, ranked by stage I": liger(pipeline),
    }
    trials, results = contest(pipeline, contestants, seeds, values)
    return Outcome(
        title="newer rivals",
        note="Beyond the paper, on the same split, epochs at most, batches, and users of early "
        f"stopping. Trials of each, ours included: {trials}; the best by NDCG@10 on validation, "
        "seen items filtered, with the first seed is shown with all seeds. In LIGER, stage I "
        "ranks the candidates of the paper's generator.",
        systems={name: result.reports for name, result in results.items()},
        facts=chosen_facts(results),
    )


def with_rpg_codes(pipeline: PRORecPipeline) -> PRORecPipeline:
    """The variant with RPG's codes: an optimised product quantizer of the text, 32 levels."""
    levels = min(_RPG_LEVELS, pipeline.config.text.dim)
    codes = {"source": "semantic", "quantizer": "opq", "balanced": None, "num_levels": levels}
    return pipeline.varied(codes=codes)


def liger(pipeline: PRORecPipeline) -> Contestant:
    """LIGER: the paper's generator finds candidates, stage I ranks them."""
    return Contestant(
        pipeline=pipeline.varied(stage_two=PLAIN_STAGE_TWO),
        part="stage_two",
        trials=GENERATOR_TRIALS,
        trained=liger_stage,
        test=liger_stage,
    )


def liger_stage(pipeline: PRORecPipeline) -> Stage[Report]:
    """The stage "liger": stage I ranks the generator's candidates; nothing is trained."""
    evaluation = pipeline.config.evaluation

    def fill(folder: Path) -> Facts:
        ranker = pipeline.trained_backbone(pipeline.semantic)
        model = LIGER(pipeline.stage_two.result(), ranker).eval()
        validation, queries = pipeline.validation, pipeline.data.split.test
        beams = evaluation.validation_beams
        ranked = rank_histories(model, validation.histories, num_beams=beams)
        facts: Facts = {"validation": ndcg(evaluate(validation, ranked.items, ks=(10,)))}
        ranked = rank_histories(model, queries.histories, num_beams=evaluation.num_beams)
        evaluate(queries, ranked.items, ks=evaluation.ks).write_json(folder / "report.json")
        return facts

    stage: Stage[Report] = pipeline.stage(
        "liger",
        reads=(
            *("evaluation.ks", "evaluation.num_beams"),
            *("evaluation.validation_users", "evaluation.validation_beams"),
        ),
        after=(pipeline.stage_one, pipeline.stage_two),
        fill=fill,
        load=lambda folder: read_report(folder / "report.json"),
    )
    return stage
