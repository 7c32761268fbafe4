"""The report of a TSSR run beside its test: the streams, their agreement and their items."""

from __future__ import annotations

import torch
from evalrec.page import Section, scatter_panels, table, tsne_panel
from fusion import alignment_distance, uniformity
from jaxtyping import Float
from torch import Tensor

from semrec.shared.findings import Findings
from semrec.tssr.config import Config
from semrec.tssr.model import TwoStream
from semrec.tssr.system import MODEL, TSSRPipeline

Agreement = dict[str, dict[str, float]]
"""By stream: "alignment" and "uniformity"."""


def findings(pipeline: TSSRPipeline) -> Findings:
    """The streams' agreement, items in two dimensions, and the main configuration values."""
    config, model = pipeline.config, pipeline.model()
    streams = agreement(config, model)
    terms = {
        "next_item": True,
        "user_contrast": config.model.user_weight,
        "item_contrast": config.model.item_weight,
    }
    panels = [
        tsne_panel(name, vectors.numpy(), seed=config.seed)
        for name, vectors in stream_tables(config, model).items()
    ]
    return Findings(
        lead="Collaborative signals and semantic relatedness in two streams",
        choices={
            "content": config.content.embedding,
            "streams": ", ".join(config.content.streams),
            "scores": {"ids": "id embeddings", "sum": "ids and content"}[config.model.head],
            "seed": config.seed,
        },
        trainings=[
            (pipeline.tssr, MODEL, [name for name, weight in terms.items() if weight]),
            *((stage, title, ["next_item"]) for title, stage in pipeline.baselines().items()),
        ],
        cards=[
            Section(
                title="Streams",
                body=[
                    table(
                        ["stream", "distance to ids", "uniformity"],
                        [[name, *values.values()] for name, values in streams.items()],
                    ),
                    scatter_panels(panels),
                ],
                note="Item embeddings of each stream: mean squared distance of unit vectors to the "
                "ids' (0 is perfect, 2 is unrelated), and uniformity (lower spreads more evenly), "
                "after Wang and Isola; t-SNE, coloured by 10 k-means clusters.",
            )
        ],
        metrics={"streams": streams},
    )


def stream_tables(config: Config, model: TwoStream) -> dict[str, Float[Tensor, "items dim"]]:
    """The embeddings of each stream."""
    with torch.no_grad():
        tables = [table.detach().cpu() for table in model.tables()]
    return dict(zip(("ids", *config.content.streams), tables, strict=True))


def agreement(config: Config, model: TwoStream) -> Agreement:
    """The alignment of each stream with the ids, and its uniformity (figure 3)."""
    tables = stream_tables(config, model)
    return {
        name: {
            "alignment": alignment_distance(tables["ids"], vectors),
            "uniformity": uniformity(vectors),
        }
        for name, vectors in tables.items()
    }
