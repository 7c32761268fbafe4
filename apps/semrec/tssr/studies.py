"""TSSR's studies: the paper's tables and figures, and several content streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from evalrec import Report
from evalrec.page import Scatter, scatter_panels, tsne_panel
from genrec import BackboneName, ItemInput

from semrec.shared.studies import Outcome, Study, default_first, tested
from semrec.tssr.report import agreement, stream_tables
from semrec.tssr.system import BASELINES, MODEL, TSSRPipeline

_WITHOUT = {
    MODEL: {},
    "without user-grained contrast": {"user_weight": 0.0},
    "without item-grained contrast": {"item_weight": 0.0},
    "without both": {"user_weight": 0.0, "item_weight": 0.0},
}


_RIVALS: dict[str, tuple[BackboneName, ItemInput]] = {
    "GRU4Rec, ids": ("gru4rec", "ids"),
    "MV-RNN: GRU4Rec, ids and content": ("gru4rec", "both"),
    "CL4SRec, ids": ("cl4srec", "ids"),
    "FDSA, ids and content": ("fdsa", "both"),
}
"""The paper's other sequence models; its MV-TRM is SASRec on both, a baseline of a run."""


def hybrid(pipeline: TSSRPipeline, seeds: Sequence[int]) -> Outcome:
    """TSSR, SASRec on ids, on content and on both, GRU4Rec, CL4SRec and FDSA (table 1)."""
    systems = tested({MODEL: pipeline}, seeds, attrgetter("tssr"))
    for items, title in BASELINES.items():
        systems |= tested({title: pipeline}, seeds, partial(TSSRPipeline.baseline, items=items))
    for title, (backbone, items) in _RIVALS.items():
        rival = partial(TSSRPipeline.rival, backbone=backbone, items=items)
        systems |= tested({title: pipeline}, seeds, rival)
    return Outcome(
        title="one source of item embeddings, or both",
        note="Table 1. All have the same maximum of epochs, optimiser, batches, depth and loss; "
        "CL4SRec adds its contrast. MV-TRM is SASRec on ids and content. MFN4Rec and BPR-MF are "
        "left out; docs/packages/genrec_models.md has the reasons. p-values: TSSR compared "
        "with each.",
        systems=systems,
    )


def contrast(pipeline: TSSRPipeline, seeds: Sequence[int]) -> Outcome:
    """Without user-grained contrast, without item-grained, without both (figure 3)."""
    variants = {name: pipeline.varied(model=changes) for name, changes in _WITHOUT.items()}
    return Outcome(
        title="hierarchical contrast",
        note="Figure 3. Alignment: mean squared distance of the content's unit vectors to the "
        "ids'; uniformity: lower is more even. Both are of the first seed.",
        systems=tested(variants, seeds, attrgetter("tssr")),
        facts={name: _agreement(variant, seeds[0]) for name, variant in variants.items()},
        k=20,
    )


def tsne(pipeline: TSSRPipeline, seeds: Sequence[int]) -> Outcome:
    """Id and content embeddings in two dimensions, with and without contrast (figures 1 and 4)."""
    variants = {name: pipeline.varied(model=_WITHOUT[name]) for name in (MODEL, "without both")}
    panels: list[Scatter] = []
    systems = tested(variants, seeds, attrgetter("tssr"))
    for name, variant in variants.items():
        first = variant.varied(seed=seeds[0])
        panels += [
            tsne_panel(f"{name}: {stream}", vectors.numpy(), seed=seeds[0])
            for stream, vectors in stream_tables(first.config, first.model()).items()
        ]
    return Outcome(
        title="item embeddings with and without contrast",
        note="Figures 1 and 4: t-SNE of the same items in each panel, coloured by 10 k-means "
        "clusters of the panel's own embeddings; first seed.",
        systems=systems,
        figures=[scatter_panels(panels)],
    )


def batch_size(
    pipeline: TSSRPipeline, seeds: Sequence[int], values: Sequence[int] = (32, 64, 128, 256)
) -> Outcome:
    """Sequences per batch, which is the number of in-batch negatives (figure 5)."""
    return _over(
        pipeline,
        seeds,
        "batch_size",
        values,
        title="batch size",
        axis="sequences per batch",
        note="Figure 5. The learning rate is the same for all; alignment and uniformity are those "
        "of the first seed.",
    )


def temperature(
    pipeline: TSSRPipeline,
    seeds: Sequence[int],
    values: Sequence[float] = tuple(step / 10 for step in range(1, 11)),
) -> Outcome:
    """Temperature of the user-grained contrast, .1 to 1 (section 4.1)."""
    return _over(
        pipeline,
        seeds,
        "contrast_temperature",
        values,
        title="temperature of user-grained contrast",
        axis="temperature",
        note="The paper searches {.1, .2, ..., 1}.",
    )


def data_share(
    pipeline: TSSRPipeline, seeds: Sequence[int], values: Sequence[float] = (0.8, 0.5, 0.2)
) -> Outcome:
    """Training on 20, 50, 80 and 100 % of the users; also SASRec on ids (figure 6)."""
    shares = {
        f"{100 * share:g}%": pipeline.varied(model={"data_share": share})
        for share in (pipeline.config.model.data_share, *values)
    }
    alone = partial(TSSRPipeline.baseline, items="ids")
    systems: dict[str, list[Report]] = {}
    for share, variant in shares.items():
        systems |= tested({f"{MODEL}, {share}": variant}, seeds, attrgetter("tssr"))
        systems |= tested({f"{BASELINES['ids']}, {share}": variant}, seeds, alone)
    return Outcome(
        title="amount of training data",
        note="Figure 6. Users are drawn by the seed; the test takes all users.",
        systems=systems,
    )


def modalities(pipeline: TSSRPipeline, seeds: Sequence[int]) -> Outcome:
    """Each content stream alone, all in one stream, and each as its own stream."""
    content = pipeline.config.content
    fields = list(dict.fromkeys(name for names in content.fields for name in names))
    texts = [name for name in fields if not content.is_image([name])]
    images = [name for name in fields if content.is_image([name])]
    streams: dict[str, tuple[str, ...]] = {}
    if len(texts) > 1 or not images:
        joined = "+".join(texts)
        streams[", ".join([f"one stream: {joined}", *images])] = (joined, *images)
    streams |= {f"{field} alone": (field,) for field in fields}
    if len(fields) > 1:
        streams[f"{len(fields)} streams: {', '.join(fields)}"] = tuple(fields)
    variants = {
        name: pipeline.varied(content={"streams": chosen}) for name, chosen in streams.items()
    }
    return Outcome(
        title="several modalities",
        note="Removes the paper's second limitation: several content modalities, each with its own "
        "stream and encoder.",
        systems=tested(variants, seeds, attrgetter("tssr")),
    )


STUDIES: dict[str, Study[TSSRPipeline]] = {
    "hybrid": hybrid,
    "contrast": contrast,
    "tsne": tsne,
    "batch-size": batch_size,
    "data-share": data_share,
    "temperature": temperature,
    "modalities": modalities,
}
"""The studies by their names on the command line."""


def _agreement(pipeline: TSSRPipeline, seed: int) -> dict[str, float | str]:
    """The mean alignment and uniformity of a trained variant's content streams."""
    variant = pipeline.varied(seed=seed)
    streams = agreement(variant.config, variant.model())
    contents = [values for name, values in streams.items() if name != "ids"]
    return {key: sum(v[key] for v in contents) / len(contents) for key in contents[0]}


def _over(
    pipeline: TSSRPipeline,
    seeds: Sequence[int],
    setting: str,
    values: Sequence[Any],
    **texts: Any,
) -> Outcome:
    """A study of one number of the model; the run's own value comes first."""
    default = getattr(pipeline.config.model, setting)
    order = default_first(default, values)
    variants: Mapping[str, TSSRPipeline] = {
        f"{texts['axis']} {value}": pipeline.varied(model={setting: value}) for value in order
    }
    return Outcome(
        systems=tested(variants, seeds, attrgetter("tssr")),
        facts={name: _agreement(variant, seeds[0]) for name, variant in variants.items()},
        places=dict(zip(variants, map(float, order), strict=True)),
        **texts,
    )
