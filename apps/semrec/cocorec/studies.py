"""CoCoRec's studies: the paper's tables and figures, other backbones, the cost of deployment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter

import torch
from evalrec.page import Panel, curves
from genrec import (
    BACKBONE_TITLES,
    CODED_BACKBONES,
    ITEM_INPUTS,
    BackboneName,
    ItemInput,
    query_batches,
)

from semrec.cocorec.system import BASELINES, MODEL, CoCoRecPipeline
from semrec.shared.findings import seconds_an_epoch
from semrec.shared.studies import Outcome, Study, default_first, mean_over_seeds, tested

_BACKBONES: tuple[BackboneName, ...] = (
    "sasrec",
    "gru4rec",
    "bert4rec",
    "fmlprec",
    "duorec",
    "s3rec",
    "fdsa",
    "unisrec",
    "vqrec",
    "tedrec",
)
_WEIGHTS = (0.2, 0.4, 0.6, 0.8)


def _source(name: str) -> dict[str, str]:
    """The configuration of a source of codes; random codes have no quantizer, hence the default."""
    return {"source": name} | ({"quantizer": "pq"} if name == "random" else {})


def ablation(pipeline: CoCoRecPipeline, seeds: Sequence[int]) -> Outcome:
    """Without masked codes, without alignment, without text, with random codes (table 4)."""
    variants = {
        MODEL: pipeline,
        "without masked code modelling": pipeline.varied(model={"alpha": 0.0}),
        "without masked sequence alignment": pipeline.varied(model={"beta": 0.0}),
        "without text embeddings": pipeline.varied(model={"read_views": False}),
        "random codes": pipeline.varied(codes=_source("random")),
    }
    return Outcome(
        title="ablation",
        note="Table 4. Without text embeddings, the codes attend to themselves, not to the views.",
        systems=tested(variants, seeds, attrgetter("cocorec")),
    )


def views(pipeline: CoCoRecPipeline, seeds: Sequence[int]) -> Outcome:
    """The views, added one by one (table 5)."""
    every = pipeline.config.views.views
    variants = {
        " + ".join(every[:count]): pipeline.varied(views={"views": every[:count]})
        for count in range(len(every), 0, -1)
    }
    return Outcome(
        title="views",
        note="Table 5. Each view has as many codes as the others.",
        systems=tested(variants, seeds, attrgetter("cocorec")),
    )


def codes(
    pipeline: CoCoRecPipeline, seeds: Sequence[int], values: Sequence[int] = (2, 4, 8)
) -> Outcome:
    """2, 4 and 8 codes per view, and residual quantization (tables 3 and 6)."""
    default = pipeline.config.codes
    counts = default_first(default.codes_per_view, values)
    variants = {
        f"{default.quantizer.upper()}, {k} per view": pipeline.varied(codes={"codes_per_view": k})
        for k in counts
    }
    other = "rq" if default.quantizer == "pq" else "pq"
    variants[f"{other.upper()}, {default.codes_per_view} per view"] = pipeline.varied(
        codes={"quantizer": other}
    )
    return Outcome(
        title="number of codes and quantizer",
        note="Table 6, and the two quantizers of table 3.",
        systems=tested(variants, seeds, attrgetter("cocorec")),
    )


def code_type(pipeline: CoCoRecPipeline, seeds: Sequence[int]) -> Outcome:
    """Codes of the text, of SASRec's item embeddings, half of each, and random ones (figure 2)."""
    default = pipeline.config.codes.source
    sources = default_first(default, ("text", "mixed", "sasrec", "random"))
    variants = {f"{name} codes": pipeline.varied(codes=_source(name)) for name in sources}
    return Outcome(
        title="source of the codes",
        note="Figure 2. The number of codes is the same; the views do not change.",
        systems=tested(variants, seeds, attrgetter("cocorec")),
    )


def weights(pipeline: CoCoRecPipeline, seeds: Sequence[int]) -> Outcome:
    """The two loss weights over {.2, .4, .6, .8} (figure 3)."""
    default = pipeline.config.model
    variants = {f"{MODEL}, alpha {default.alpha}, beta {default.beta}": pipeline}
    grid = {}
    for beta in _WEIGHTS:
        for alpha in _WEIGHTS:
            name = f"alpha {alpha}, beta {beta}"
            variants[name] = pipeline.varied(model={"alpha": alpha, "beta": beta})
            grid[name] = (alpha, beta)
    systems = tested(variants, seeds, attrgetter("cocorec"))
    panels = [
        Panel(
            title=f"{metric}, seen items filtered",
            x_label="alpha",
            lines={
                f"beta {beta}": [
                    (alpha, mean_over_seeds(systems[name], metric, "filtered"))
                    for name, (alpha, other) in grid.items()
                    if other == beta
                ]
                for beta in _WEIGHTS
            },
        )
        for metric in ("recall@10", "ndcg@10")
    ]
    return Outcome(
        title="weights of the two masking losses",
        note="Figure 3: alpha is the weight of masked code modelling, beta of masked sequence "
        "alignment. These are test figures: choose a pair on validation.",
        systems=systems,
        figures=[curves(panels)],
    )


def negatives(pipeline: CoCoRecPipeline, seeds: Sequence[int]) -> Outcome:
    """All items as negatives, or fewer with logQ correction: accuracy and time."""
    default, num_items = pipeline.config.model.num_negatives, len(pipeline.data.catalog)
    counts = default_first(default, [n for n in (0, 4096, 2048, 1024, 512, 256) if n < num_items])
    variants = {
        f"{count:,} negatives" if count else "all items": pipeline.varied(
            model={"num_negatives": count}
        )
        for count in counts
    }
    systems = tested(variants, seeds, attrgetter("cocorec"))
    return Outcome(
        title="negatives",
        note="The paper uses about all items. Fewer are drawn uniformly, with logQ correction. "
        "Seconds per epoch include the effect of other load on this machine.",
        systems=systems,
        facts={
            name: {"seconds per epoch": seconds_an_epoch(variant.varied(seed=seeds[0]).cocorec)}
            for name, variant in variants.items()
        },
    )


def item_id(pipeline: CoCoRecPipeline, seeds: Sequence[int]) -> Outcome:
    """The frozen model with an id table, fine-tuned by the cross-entropy alone (table 7)."""
    return Outcome(
        title="item ids on top",
        note="Table 7: everything except the id table is frozen.",
        systems={
            **tested({MODEL: pipeline}, seeds, attrgetter("cocorec")),
            **tested({"+ item ids": pipeline}, seeds, attrgetter("item_ids_on_top")),
        },
    )


def backbones(pipeline: CoCoRecPipeline, seeds: Sequence[int]) -> Outcome:
    """Other sequence models on ids, text and both, as far as each supports it (table 3)."""
    systems = tested({MODEL: pipeline}, seeds, attrgetter("cocorec"))
    sources: dict[ItemInput, str] = {"ids": "ids", "content": "text", "both": "ids and text"}
    coded = pipeline.varied(codes=_source("text"))
    for backbone in _BACKBONES:
        for items, source in sources.items():
            if items not in ITEM_INPUTS.get(backbone, sources):
                continue
            rival = partial(CoCoRecPipeline.baseline, items=items, backbone=backbone)
            reads_codes = backbone in CODED_BACKBONES
            title = f"{BACKBONE_TITLES[backbone]}, {'codes of the text' if reads_codes else source}"
            systems |= tested({title: coded if reads_codes else pipeline}, seeds, rival)
    return Outcome(
        title="other sequence models",
        note="Table 3. The same sizes, negatives, optimiser and maximum of epochs; text means the "
        "views with a trained projection. VQRec reads CoCoRec's codes. MAERec and MMSR are left "
        "out; docs/packages/genrec_models.md has the reasons. p-values: CoCoRec compared with "
        "each.",
        systems=systems,
    )


def deploy(pipeline: CoCoRecPipeline, seeds: Sequence[int]) -> Outcome:
    """Precomputed item vectors without semantic fusion: same answers, SASRec's cost (A)."""
    first = pipeline.varied(seed=seeds[0])
    model, stored, sasrec = first.model(), first.deployed(), first.trained_baseline("ids")
    history = _first_histories(first)

    def whole() -> torch.Tensor:
        inputs, outputs = model.item_encoder()
        return model.compare(model.last_state(history, inputs), outputs)

    fusing, lean, base = (
        f"{MODEL}, fusing the items for each batch",
        f"{MODEL}, deployed",
        BASELINES["ids"],
    )
    with torch.inference_mode():
        gap = float((model.score(history) - stored.score(history)).abs().max())
        seconds = _medians(
            {
                fusing: whole,
                lean: lambda: stored.score(history),
                base: lambda: sasrec.score(history),
            }
        )
    return Outcome(
        title="deployment",
        note=f"Appendix A. {len(history)} users per batch, medians of alternating runs; {fusing}: "
        f"{1000 * seconds[fusing]:.4g} milliseconds, {seconds[fusing] / seconds[base]:.4g} times "
        "SASRec. Largest difference between a score of the whole model and of the deployed one: "
        f"{gap:.1e}.",
        systems={lean: [first.cocorec.result()], base: [first.baseline("ids").result()]},
        facts={
            name: {
                "milliseconds per batch": 1000 * seconds[name],
                "times SASRec": seconds[name] / seconds[base],
            }
            for name in (lean, base)
        },
    )


STUDIES: dict[str, Study[CoCoRecPipeline]] = {
    "ablation": ablation,
    "views": views,
    "codes": codes,
    "code-type": code_type,
    "weights": weights,
    "negatives": negatives,
    "item-id": item_id,
    "backbones": backbones,
    "deploy": deploy,
}
"""The studies by their names on the command line."""


def _first_histories(pipeline: CoCoRecPipeline, count: int = 256) -> torch.Tensor:
    queries = pipeline.data.split.test
    ((_, history),) = query_batches(
        queries.histories[:count],
        num_items=queries.num_items,
        history_length=pipeline.config.model.history_length,
        batch_size=count,
    )
    return history


def _medians(ways: Mapping[str, Callable[[], object]], repeats: int = 30) -> dict[str, float]:
    """Median seconds of each function, measured in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 3):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repeat >= 3:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
