"""The report of a PRORec run beside its test: the semantic IDs and their modality shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from evalrec.page import Section, histogram, scatter_panels, share_bars, table, tag, tsne_panel
from fusion import ModalityShare, modality_share
from jaxtyping import Float
from semtok import Tokenizer, measure_health
from torch import Tensor

from semrec.prorec.joined import PRORecPipeline
from semrec.shared.findings import Findings
from semrec.shared.stage import Stage

Spaces = Mapping[str, tuple[Tensor, ModalityShare]]
"""Item embeddings by name, with their modality shares."""


def findings(pipeline: PRORecPipeline) -> Findings:
    """The codes' health, the shares of the modalities, and the choices of the configuration."""
    config, spaces = pipeline.config, modality_spaces(pipeline)
    cards = [codes_section(pipeline.tokenizer.result())]
    if spaces:
        cards.append(modalities_section(spaces, config.seed))
    trainings: list[tuple[Stage[Any], str, Sequence[str]]] = [
        (pipeline.stage_one, "stage I", ("next_item", "alignment")),
        (pipeline.stage_two, "stage II", ("generation", "distillation")),
    ]
    stages = [stage.folder_name for stage in pipeline.stages()]
    return Findings(
        lead="Progressive collaborative and semantic knowledge fusion for generative "
        "recommendation",
        choices={
            "text": config.text.embedding,
            "backbone": config.stage_one.backbone,
            "codes of": config.codes.source,
            "integrated embedding": config.stage_one.integrated,
            "quantizer": config.codes.quantizer,
            "generator": config.stage_two.kind,
            "history": config.stage_two.history_input,
            "output": config.stage_two.output_vocabulary,
            "seed": config.seed,
        },
        trainings=[training for training in trainings if training[0].folder_name in stages],
        cards=cards,
        metrics={
            "modality_share": {
                name: dataclasses.asdict(share) for name, (_, share) in spaces.items()
            }
        },
    )


def modality_spaces(pipeline: PRORecPipeline) -> Spaces:
    """The quantized and the concatenated embeddings, with their modality shares (eq. 9-10).

    The collaborative modality is a model trained on ids alone, as in the paper's table 4. Without
    such a model there are no shares.
    """
    config = pipeline.config
    if not config.has_reference:
        return {}
    semantic, collaborative = pipeline.semantic.cpu(), pipeline.collaborative
    spaces: dict[str, Float[Tensor, "items _"]] = {config.codes.source: pipeline.embeddings}
    spaces.setdefault("concatenated", torch.cat([semantic, collaborative], dim=1))
    return {
        name: (space, modality_share(semantic, collaborative, space, seed=config.seed))
        for name, space in spaces.items()
    }


def codes_section(tokenizer: Tokenizer) -> Section:
    """The use of the codes, and the number of items with the same first code."""
    ids = tokenizer.semantic_ids
    health = measure_health(ids, collisions=tokenizer.collisions, distortion=tokenizer.distortion)
    levels = [
        [level, size.codebook_size, size.used, f"{size.utilisation:.1%}", size.perplexity]
        for level, size in enumerate(health.levels, start=1)
    ]
    first = np.bincount(np.bincount(ids.codes[:, 0], minlength=ids.codebook_sizes[0]))
    chart = histogram(
        {size: int(count) for size, count in enumerate(first) if count},
        title="number of items with each first code",
        x_label="items",
    )
    return Section(
        title="Semantic IDs",
        body=[
            table(["level", "codebook", "used", "utilisation", "perplexity"], levels),
            tag("div", chart, css="grid wide"),
        ],
        note=f"Collisions: {health.collision_rate:.2%} of items. Items by depth of their "
        "code: " + ", ".join(f"{n:,} at {d}" for d, n in enumerate(health.depths, 1)) + ".",
    )


def modalities_section(spaces: Spaces, seed: int) -> Section:
    """The modality shares, and the items in two dimensions."""
    shares = {
        name: {"semantic": share.semantic, "collaborative": share.collaborative}
        for name, (_, share) in spaces.items()
    }
    panels = [tsne_panel(name, space.numpy(), seed=seed) for name, (space, _) in spaces.items()]
    return Section(
        title="Modalities",
        body=[share_bars(shares), scatter_panels(panels)],
        note="Share of each modality by KL (PRORec, eq. 9-10) and t-SNE, coloured by "
        "10 k-means clusters (figure 5). The collaborative modality is that of the "
        "backbone trained on ids alone.",
    )
