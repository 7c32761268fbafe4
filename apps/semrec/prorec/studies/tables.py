"""PRORec's studies: the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from evalrec.page import Bars, Panel, bars, curves, scatter_panels, share_bars, tsne_panel
from fusion import modality_share

from semrec.prorec.config import PLAIN_STAGE_TWO, UNJOINED
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.studies.beyond import beyond, joining
from semrec.prorec.studies.generation import generation
from semrec.prorec.studies.newer import newer
from semrec.prorec.studies.rivals import (
    chosen_facts,
    contest,
    dense_rivals,
    eager,
    prorec,
    recforest,
    tiger,
)
from semrec.prorec.studies.speed import AT_ONCE, speed_stage
from semrec.prorec.studies.two_codes import two_codes
from semrec.prorec.system import MODEL
from semrec.shared.studies import Outcome, Study, default_first, mean_over_seeds, tested

_UNDISTILLED = {"beta": 0.0, "distillation_state": "last"}
_ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    MODEL: {},
    "without distillation": {"stage_two": _UNDISTILLED},
    "without alignment": {"stage_one": {"alpha": 0.0}},
    "without both": {"stage_one": {"alpha": 0.0}, "stage_two": _UNDISTILLED},
    "concatenated, without both": {"codes": {"source": "concatenated"}, "stage_two": _UNDISTILLED},
}
_SOURCES = {
    MODEL: "integrated",
    "semantic only": "semantic",
    "collaborative only": "collaborative",
    "concatenated": "concatenated",
    "concatenated, length 1": "concatenated_unit",
}
_PLAIN = {"balanced": None, "num_levels": None, "collisions": None, "epochs": None}
_QUANTIZERS: dict[str, dict[str, Any]] = {
    "hierarchical k-means, balanced": {"quantizer": "hierarchical"},
    "hierarchical k-means": {"quantizer": "hierarchical", "balanced": False},
    "random": {"quantizer": "random"},
    "RQ-VAE with suffix": {"quantizer": "rqvae"},
    "RQ": {"quantizer": "rq"},
    "PQ": {"quantizer": "pq"},
}


def domination(pipeline: PRORecPipeline, seeds: Sequence[int]) -> Outcome:
    """Codes of text, of behaviour, of both concatenated, and ours (tables 4, 5, figures 3, 5)."""
    variants = {
        name: pipeline.varied(codes={"source": source}, joining=UNJOINED)
        for name, source in _SOURCES.items()
    }
    systems = tested(variants, seeds, attrgetter("test"))
    shares, panels = {}, []
    for name, variant in variants.items():
        first = variant.varied(seed=seeds[0])
        final = first.embeddings
        share = modality_share(first.semantic.cpu(), first.collaborative, final, seed=seeds[0])
        shares[name] = {"semantic": share.semantic, "collaborative": share.collaborative}
        panels.append(tsne_panel(name, final.numpy(), seed=seeds[0]))
    return Outcome(
        title="domination of one modality",
        note="Tables 4 and 5, figures 3 and 5. The source of the codes, which stage II also reads "
        "and distils. Modality shares by KL (eq. 9-10), where the collaborative modality is the "
        "backbone trained on ids alone; t-SNE, coloured by 10 k-means clusters. Both are of the "
        "first seed.",
        systems=systems,
        facts={name: {"semantic share": f"{s['semantic']:.1%}"} for name, s in shares.items()},
        figures=[share_bars(shares), scatter_panels(panels)],
    )


def ablation(pipeline: PRORecPipeline, seeds: Sequence[int]) -> Outcome:
    """Without distillation, without alignment, without both, concatenated (table 6)."""
    variants = {
        name: pipeline.varied(seed=None, joining=UNJOINED, **changes)
        for name, changes in _ABLATIONS.items()
    }
    return Outcome(
        title="alignment and distillation",
        note="Table 6. Without alignment the integrated embeddings are still E_C + E_T, trained "
        "only to predict the next item. The last row is the paper's own variant without both: E_S "
        "concatenated with E_C of a model on ids alone.",
        systems=tested(variants, seeds, attrgetter("test")),
    )


def encoders(
    pipeline: PRORecPipeline, seeds: Sequence[int], *, values: Sequence[str] = ("lsa", "minilm")
) -> Outcome:
    """Text encoders: LSA and MiniLM, or the names, folders or files of --values (figure 7).

    A decoder-only language model is pooled by the mean over its tokens.
    """
    default = pipeline.config.text.embedding
    names = {value: Path(value).name for value in default_first(default, values)}
    if len(set(names.values())) < len(names):  # files with the same name in different folders
        names = {value: value for value in names}
    variants = {name: pipeline.varied(text={"embedding": value}) for value, name in names.items()}
    for variant in variants.values():  # unreadable sources are refused before any training
        for text in variant.texts:
            text.complete()
    systems = tested(variants, seeds, attrgetter("test"))
    facts = {}
    for name, variant in variants.items():
        views = [text.complete() for text in variant.texts]
        facts[name] = {
            "dimensions": sum(view["dim"] for view in views),
            "seconds": round(sum(view["seconds"] for view in views), 1),
        }
    return Outcome(
        title="text encoders",
        note="Figure 7. All are reduced by PCA to the same width. The dimensions before PCA and "
        "the seconds to embed the catalogue are sums over all views of the text.",
        systems=systems,
        facts=facts,
    )


def quantizers(pipeline: PRORecPipeline, seeds: Sequence[int]) -> Outcome:
    """Hierarchical k-means, balanced or plain, random codes, RQ-VAE, RQ and PQ (figure 8)."""
    variants = {
        name: pipeline.varied(codes={**_PLAIN, **codes}) for name, codes in _QUANTIZERS.items()
    }
    systems = tested(variants, seeds, attrgetter("test"))
    return Outcome(
        title="quantizers",
        note="Figure 8. Codes of the same embeddings. A last code makes those of RQ-VAE unique, as "
        "in the paper; RQ, PQ and random codes become unique by moving items to a free code. "
        "Collisions: the share of items that shared all their codes before; first seed.",
        systems=systems,
        facts={name: _code_facts(variant, seeds[0]) for name, variant in variants.items()},
    )


def clusters(
    pipeline: PRORecPipeline, seeds: Sequence[int], *, values: Sequence[int] = (64, 128, 256, 512)
) -> Outcome:
    """K of hierarchical k-means: 64, 128, 256 and 512, or --values (figure 9)."""
    places = {f"K = {k}": k for k in default_first(pipeline.config.codes.codebook_size, values)}
    variants = {name: pipeline.varied(codes={"codebook_size": k}) for name, k in places.items()}
    return Outcome(
        title="number of clusters",
        note="Figure 9.",
        systems=tested(variants, seeds, attrgetter("test")),
        facts={name: _code_facts(variant, seeds[0]) for name, variant in variants.items()},
        places=places,
        axis="K",
        k=20,
    )


def scaling(
    pipeline: PRORecPipeline, seeds: Sequence[int], *, values: Sequence[int] = (1, 2, 4, 8)
) -> Outcome:
    """Decoder layers, compared with HSTU of the same depth: 1, 2, 4, 8, or --values (figure 6)."""
    pipeline.check_rivals()
    layers = default_first(pipeline.config.stage_two.num_decoder_layers, values)
    ours = {
        f"{MODEL}, depth {count}": pipeline.varied(stage_two={"num_decoder_layers": count})
        for count in layers
    }
    hstu = {
        f"HSTU, depth {count}": pipeline.varied(stage_one={"num_layers": count}) for count in layers
    }
    systems = tested(ours, seeds, attrgetter("test"))
    systems |= tested(hstu, seeds, partial(PRORecPipeline.rival, backbone="hstu", items="both"))
    ks = systems[f"{MODEL}, depth {layers[0]}"][0].ks
    metric = f"ndcg@{20 if 20 in ks else ks[-1]}"
    lines = {
        f"{name}, {label}": [
            (count, mean_over_seeds(systems[f"{name}, depth {count}"], metric, mode))
            for count in sorted(layers)
        ]
        for name in (MODEL, "HSTU")
        for label, mode in (("all items", "unfiltered"), ("seen filtered", "filtered"))
    }
    return Outcome(
        title="number of layers",
        note="Figure 6. Depth: decoder layers of PRORec; layers of HSTU, which reads ids and text, "
        "with the sizes of stage I, and ranks the catalogue.",
        systems=systems,
        figures=[curves([Panel(title=metric, lines=lines, x_label="layers", mark="max")])],
        k=20,
    )


def speed(pipeline: PRORecPipeline, seeds: Sequence[int]) -> Outcome:
    """One code per item compared with two, in accuracy and speed (figure 2)."""
    pipeline = pipeline.varied(stage_two=PLAIN_STAGE_TWO, joining=UNJOINED)
    systems = {
        **tested({MODEL: pipeline}, seeds, attrgetter("test")),
        **tested({"two codes": pipeline}, seeds, two_codes),
    }
    seconds = speed_stage(pipeline.varied(seed=seeds[0])).result()
    panels = [
        Bars(
            title=f"seconds per user, {count} at once",
            values={name: tuple(rows[str(count)]) for name, rows in seconds.items()},  # type: ignore[misc]
        )
        for count in AT_ONCE
    ]
    return Outcome(
        title="one code or two",
        note="Figure 2, by the paper's generator: beam 100, top 5, the same encoder and decoder "
        "sizes. Each of two codes has its own decoder, and both decoders score the items that "
        "either finds. Seconds per user: medians of alternating rounds, with quartiles in the "
        "figure; first seed.",
        systems=systems,
        facts={
            name: {
                f"seconds per user, {count} at once": f"{value[0]:.4f}"
                for count, value in rows.items()
            }
            for name, rows in seconds.items()
        },
        figures=[bars(panels)],
    )


def rivals(
    pipeline: PRORecPipeline, seeds: Sequence[int], *, values: Sequence[int] = (4,)
) -> Outcome:
    """Sequence models, TIGER, EAGER, RecForest, the floors (table 3); --values: trials of each."""
    pipeline.check_rivals()
    pipeline = pipeline.varied(joining=UNJOINED)
    contestants = {
        MODEL: prorec(pipeline),
        **dense_rivals(pipeline),
        "TIGER": tiger(pipeline),
        "EAGER's two codes": eager(pipeline),
        "RecForest's two trees": recforest(pipeline),
    }
    trials, results = contest(pipeline, contestants, seeds, values)
    systems = {name: result.reports for name, result in results.items()}
    systems |= {name: [report] for name, report in pipeline.floors.result().items()}
    return Outcome(
        title="rivals",
        note=f"Table 3, with the same split, most epochs, batches and users of early stopping. "
        f"Trials of each model, ours included, without floors: {trials}. The trial with the best "
        "NDCG@10 on validation, seen items filtered, with the first seed is tested with all seeds.",
        systems=systems,
        facts=chosen_facts(results),
    )


STUDIES: dict[str, Study[PRORecPipeline]] = {
    "domination": domination,
    "ablation": ablation,
    "encoders": encoders,
    "quantizers": quantizers,
    "clusters": clusters,
    "scaling": scaling,
    "speed": speed,
    "rivals": rivals,
    "newer": newer,
    "generation": generation,
    "joining": joining,
    "beyond": beyond,
}
"""The studies by their names on the command line."""


def _code_facts(pipeline: PRORecPipeline, seed: int) -> Mapping[str, float | str]:
    """The number of codes per item, and how many items shared all codes at first."""
    tokenizer = pipeline.varied(seed=seed).tokenizer.result()
    collisions = tokenizer.collisions
    rate = "" if collisions is None else f"{collisions.rate:.1%}"
    return {"levels": tokenizer.semantic_ids.num_levels, "collisions": rate}
