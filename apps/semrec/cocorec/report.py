"""The report of a CoCoRec run beside its test: the codes and the fused items."""

from __future__ import annotations

from evalrec.page import Section, scatter_panels, table, tsne_panel
from semtok import measure_health

from semrec.cocorec.system import MODEL, CoCoRecPipeline
from semrec.shared.findings import Findings


def findings(pipeline: CoCoRecPipeline) -> Findings:
    """The codes' health, the fused items in two dimensions, and the main configuration values."""
    config = pipeline.config
    model, per_view = config.model, config.codes.codes_per_view
    health = measure_health(pipeline.codes())
    names = [f"{view} {k}" for view in config.views.views for k in range(1, per_view + 1)]
    if config.codes.source != "text":
        names = [f"{config.codes.source} {k}" for k in range(1, len(health.levels) + 1)]
    levels = [
        [name, level.codebook_size, level.used, f"{level.utilisation:.1%}", level.perplexity]
        for name, level in zip(names, health.levels, strict=True)
    ]
    terms = {"next_item": True, "masked_codes": model.alpha, "alignment": model.beta}
    fused = pipeline.deployed().item_vectors().detach().cpu().numpy()
    return Findings(
        lead="Text and collaborative signals, bridged by semantic codes",
        choices={
            "embedding": config.views.embedding,
            "views": ", ".join(config.views.views),
            "codes": f"{config.codes.quantizer}, {per_view} per view",
            "source of the codes": config.codes.source,
            "seed": config.seed,
        },
        trainings=[
            (pipeline.cocorec, MODEL, [name for name, weight in terms.items() if weight]),
            *((stage, title, ["next_item"]) for title, stage in pipeline.baselines().items()),
        ],
        cards=[
            Section(
                title="Semantic codes",
                body=[table(["code", "codebook", "used", "utilisation", "perplexity"], levels)],
                note=f"{health.collision_rate:.2%} of the items share all their codes with "
                "another; their views, to which the codes attend, distinguish them.",
            ),
            Section(
                title="Items",
                body=[scatter_panels([tsne_panel("fused item vectors", fused, seed=config.seed)])],
                note="The items that the backbone reads and ranks: t-SNE, coloured by 10 k-means "
                "clusters.",
            ),
        ],
        metrics={
            "codes": {
                "codebook_sizes": [level.codebook_size for level in health.levels],
                "collision_rate": health.collision_rate,
                "perplexity": [level.perplexity for level in health.levels],
            }
        },
    )
