"""PRORec's rivals, tuned on validation: all models have equally many trials, ours included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import typer
from evalrec import Report
from genrec import BACKBONE_TITLES, BackboneName, ItemInput

from semrec.prorec.config import PLAIN_STAGE_TWO
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.studies.generation import two_trees
from semrec.prorec.studies.two_codes import two_codes
from semrec.shared.stage import Stage

DENSE_TRIALS: tuple[dict[str, Any], ...] = (
    {},
    {"dropout": 0.2},
    {"learning_rate": 5e-4},
    {"temperature": 0.1},
    {"dropout": 0.5},
    {"learning_rate": 2e-3},
    {"temperature": 0.05},
    {"num_layers": 1},
)
"""The trials of sequence models, in this order, after the run's own values."""

GENERATOR_TRIALS: tuple[dict[str, Any], ...] = (
    {},
    {"learning_rate": 2e-3},
    {"dropout": 0.4},
    {"dropout": 0.1},
    {"learning_rate": 5e-4},
    {"label_smoothing": 0.1},
    {"dropout": 0.3},
    {"num_decoder_layers": 2},
)
"""The trials of models that generate codes."""

TIGER = {
    **PLAIN_STAGE_TWO,
    "num_encoder_layers": 4,
    "num_decoder_layers": 4,
    "feedforward_dim": 1024,
    "history_input": "codes",
    "train_item_vectors": False,
    "output_vocabulary": "level",
    "scoring": "masked",
    "node_start": "random",
    "history_bias": False,
    "beta": 0.0,
    "distillation_state": "last",
}
"""The settings of TIGER for stage II."""

TIGER_CODES = {
    "source": "semantic",
    "quantizer": "rqvae",
    "codebook_size": 256,
    "balanced": None,
    "num_levels": 3,
    "collisions": "suffix",
    "epochs": None,
}
"""The settings of TIGER for the codes."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model in the search.

    Attributes:
        pipeline: The untuned variant of the run.
        part: The table of the configuration that trials change.
        trials: The changes of each trial.
        trained: Returns the stage that trains a variant; its facts have the validation metrics.
        test: Returns the stage that tests a variant, which may be the same.
    """

    pipeline: PRORecPipeline
    part: str
    trials: Sequence[dict[str, Any]]
    trained: Callable[[PRORecPipeline], Stage[Any]]
    test: Callable[[PRORecPipeline], Stage[Report]]


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The best of a contestant's trials.

    Attributes:
        reports: The test reports, one per seed.
        validation: NDCG@10 on validation, seen items filtered, by which it was chosen.
        chosen: Its changes, as a text.
    """

    reports: list[Report]
    validation: float
    chosen: str


def settings(contestant: Contestant) -> dict[str, PRORecPipeline]:
    """The different settings of a contestant, by their changes as a text."""
    variants: dict[str, PRORecPipeline] = {}
    configs: list[Any] = []
    for changes in contestant.trials:
        variant = contestant.pipeline.varied(seed=None, **{contestant.part: changes})
        if variant.config not in configs:
            configs.append(variant.config)
            words = ", ".join(f"{name} {value}" for name, value in changes.items())
            variants[words or "the run's own"] = variant
    return variants


def searched(contestant: Contestant, num_trials: int, seeds: Sequence[int]) -> Searched:
    """Tries a contestant's settings with the first seed, and tests the best with all seeds.

    Args:
        contestant: The model.
        num_trials: The number of settings that are tried.
        seeds: The seeds of the test.

    Raises:
        ValueError: There are fewer settings, or `num_trials` is less than 1.
    """
    possible = settings(contestant)
    if not 1 <= num_trials <= len(possible):
        raise ValueError(f"num_trials must be in [1, {len(possible)}], got {num_trials}")
    trials: dict[str, tuple[float, PRORecPipeline]] = {}
    for number, (words, variant) in enumerate(list(possible.items())[:num_trials], start=1):
        variant.run.screen.say(f"-- trial {number} of {num_trials}: {words}")
        facts = contestant.trained(variant.varied(seed=seeds[0])).complete()
        trials[words] = (float(facts["validation"]["ndcg@10 filtered"]), variant)
    chosen = max(trials, key=lambda words: trials[words][0])
    validation, best = trials[chosen]
    return Searched(
        reports=[contestant.test(best.varied(seed=seed)).result() for seed in seeds],
        validation=validation,
        chosen=chosen,
    )


def prorec(pipeline: PRORecPipeline) -> Contestant:
    """The run itself, with trials of its stage II."""
    return Contestant(
        pipeline=pipeline,
        part="stage_two",
        trials=GENERATOR_TRIALS,
        trained=attrgetter("stage_two"),
        test=attrgetter("test"),
    )


def tiger(pipeline: PRORecPipeline) -> Contestant:
    """TIGER: RQ-VAE codes of the text with a last unique code, four layers in each half."""
    return prorec(pipeline.varied(codes=TIGER_CODES, stage_two=TIGER))


def eager(pipeline: PRORecPipeline) -> Contestant:
    """EAGER: one code of the text and one of the behaviour, each with its own decoder.

    Differs: without EAGER's task that transfers from text to behaviour.
    """
    changes = {**PLAIN_STAGE_TWO, "output_vocabulary": "node", "scoring": "renormalized"}
    return Contestant(
        pipeline=pipeline.varied(stage_two=changes),
        part="stage_two",
        trials=GENERATOR_TRIALS,
        trained=two_codes,
        test=two_codes,
    )


def recforest(pipeline: PRORecPipeline) -> Contestant:
    """RecForest: two trees of the behaviour's embeddings, one generator per tree, ranked by both.

    Differs: the trees have the run's own branching and the generators its own sizes, each with an
    encoder of its own; trials are chosen by the first tree alone.
    """
    changes = {
        **PLAIN_STAGE_TWO,
        "output_vocabulary": "node",
        "scoring": "renormalized",
        "beta": 0.0,
        "distillation_state": "last",
    }
    return Contestant(
        pipeline=pipeline.varied(codes={"source": "collaborative"}, stage_two=changes),
        part="stage_two",
        trials=GENERATOR_TRIALS,
        trained=attrgetter("stage_two"),
        test=two_trees,
    )


def dense_rivals(pipeline: PRORecPipeline) -> dict[str, Contestant]:
    """Sequence models with the sizes of stage I that rank the catalogue, by title."""
    sampled = pipeline.config.stage_one.num_negatives or 2048
    kinds: list[tuple[BackboneName, ItemInput, str, int]] = [
        ("sasrec", "ids", ", full softmax", 0),
        ("sasrec", "ids", f", {sampled} negatives", sampled),
        ("sasrec", "content", "", sampled),
        ("sasrec", "both", "", sampled),
        ("gru4rec", "ids", "", sampled),
        ("bert4rec", "ids", "", sampled),
        ("hstu", "ids", "", sampled),
        ("caser", "ids", "", sampled),
        ("hgn", "ids", "", sampled),
        ("fmlprec", "ids", "", sampled),
        ("cl4srec", "ids", "", sampled),
        ("duorec", "ids", "", sampled),
        ("fdsa", "both", "", sampled),
        ("s3rec", "both", "", sampled),
        ("unisrec", "content", "", sampled),
        ("unisrec", "both", "", sampled),
    ]
    read = {"ids": "ids", "content": "text", "both": "ids and text"}
    return {
        f"{BACKBONE_TITLES[backbone]}, {read[items]}{loss}": dense_rival(
            pipeline.varied(stage_one={"num_negatives": negatives}), backbone, items
        )
        for backbone, items, loss, negatives in kinds
    }


def dense_rival(pipeline: PRORecPipeline, backbone: BackboneName, items: ItemInput) -> Contestant:
    """A sequence model that ranks the catalogue, in the sizes and by the loss of stage I."""
    stage = partial(PRORecPipeline.rival, backbone=backbone, items=items)
    return Contestant(
        pipeline=pipeline, part="stage_one", trials=DENSE_TRIALS, trained=stage, test=stage
    )


def contest(
    pipeline: PRORecPipeline,
    contestants: Mapping[str, Contestant],
    seeds: Sequence[int],
    values: Sequence[int],
) -> tuple[int, dict[str, Searched]]:
    """Searches all contestants with as many trials each.

    Args:
        pipeline: The run.
        contestants: The models, by their rows.
        seeds: For the tests.
        values: One number of trials, as the command line has it.

    Returns:
        The number of trials, and the result of each contestant.

    Raises:
        typer.BadParameter: `values` is not one number, or a contestant has fewer settings.
    """
    possible = min(len(settings(contestant)) for contestant in contestants.values())
    (trials,) = values if len(values) == 1 else (0,)
    if not 1 <= trials <= possible:
        raise typer.BadParameter(
            f"--values must be one number of trials, from 1 to {possible}, "
            f"got {','.join(map(str, values))}"
        )
    results: dict[str, Searched] = {}
    for number, (name, contestant) in enumerate(contestants.items(), start=1):
        pipeline.run.screen.say(f"-- {name} ({number} of {len(contestants)})")
        results[name] = searched(contestant, trials, seeds)
    return trials, results


def chosen_facts(results: Mapping[str, Searched]) -> dict[str, dict[str, float | str]]:
    """The facts of each search that a table shows in addition to the tests."""
    return {
        name: {"validation NDCG@10": f"{result.validation:.4f}", "chosen": result.chosen}
        for name, result in results.items()
    }
