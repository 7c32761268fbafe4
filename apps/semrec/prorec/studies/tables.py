"""PRORec's studies: the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer
from evalrec import Report
from fusion import modality_share

from semrec.prorec.config import UNJOINED
from semrec.prorec.report import MODEL
from semrec.prorec.studies.beyond import beyond, joining
from semrec.prorec.studies.rivals import (
    Searched,
    dense_rivals,
    eager,
    prorec,
    searched,
    settings,
    tiger,
)
from semrec.prorec.studies.speed import AT_ONCE, measure_speed
from semrec.prorec.studies.two_codes import two_codes
from semrec.prorec.system import Pipeline
from semrec.shared.data import fit_and_test_floors
from semrec.shared.report.figures import Bars, Panel, bars, curves, scatter_panels, tsne_panel
from semrec.shared.report.page import share_bars
from semrec.shared.studies import Outcome, Study, tested

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


def domination(pipeline: Pipeline, seeds: Sequence[int]) -> Outcome:
    """Codes of text, of behaviour, of both concatenated, or ours (tables 4, 5, figures 3, 5)."""
    variants = {
        name: pipeline.varied(codes={"source": source}, joining=UNJOINED)
        for name, source in _SOURCES.items()
    }
    systems = tested(variants, seeds, Pipeline.test)
    shares, panels = {}, []
    for name, variant in variants.items():
        one = variant.varied(seed=seeds[0])
        final = one.embeddings
        share = modality_share(
            one.semantic.cpu(), one.reference["collaborative"], final, seed=seeds[0]
        )
        shares[name] = {"semantic": share.semantic, "collaborative": share.collaborative}
        panels.append(tsne_panel(name, final.numpy(), seed=seeds[0]))
    return Outcome(
        title="domination of one modality",
        note="Tables 4 and 5, figures 3 and 5. What the codes are made of, and what stage II reads "
        "and distils. Shares of the modalities by KL (eq. 9-10), the collaborative one being that "
        "of the backbone trained on ids alone; t-SNE, coloured by 10 k-means clusters; both of "
        "the first seed.",
        systems=systems,
        facts={name: {"semantic share": f"{s['semantic']:.1%}"} for name, s in shares.items()},
        figures=[share_bars(shares), scatter_panels(panels)],
    )


def ablation(pipeline: Pipeline, seeds: Sequence[int]) -> Outcome:
    """Without distillation, without alignment, without both, concatenated (table 6)."""
    variants = {
        name: pipeline.varied(seed=None, joining=UNJOINED, **changes)
        for name, changes in _ABLATIONS.items()
    }
    return Outcome(
        title="alignment and distillation",
        note="Table 6. Without alignment the integrated embeddings are still E_C + E_T, trained by "
        "the next item alone. The paper's own variant without both is the last one: E_S beside E_C "
        "of a model on ids alone.",
        systems=tested(variants, seeds, Pipeline.test),
    )


def encoders(
    pipeline: Pipeline, seeds: Sequence[int], *, values: Sequence[str] = ("lsa", "minilm")
) -> Outcome:
    """Text encoders: LSA and MiniLM, or the names, folders or files of --values (figure 7).

    A decoder-only language model is pooled by the mean over its tokens.
    """
    own = pipeline.config.text.embedding
    names = {value: Path(value).name for value in _first(own, values)}
    if len(set(names.values())) < len(names):  # files of one name in different folders
        names = {value: value for value in names}
    variants = {name: pipeline.varied(text={"embedding": value}) for value, name in names.items()}
    for variant in variants.values():  # what cannot be read is refused before anything is trained
        for view in variant.views():
            view.text()
    systems = tested(variants, seeds, Pipeline.test)
    facts = {}
    for name, variant in variants.items():
        views = [pipeline.run.facts(view.text_stage) for view in variant.views()]
        facts[name] = {
            "dimensions": sum(view["dim"] for view in views),
            "seconds": round(sum(view["seconds"] for view in views), 1),
        }
    return Outcome(
        title="text encoders",
        note="Figure 7. All are reduced by PCA to the same width; dimensions before, and seconds "
        "of embedding the catalogue, are those of all views of the text.",
        systems=systems,
        facts=facts,
    )


def quantizers(pipeline: Pipeline, seeds: Sequence[int]) -> Outcome:
    """Hierarchical k-means, balanced or not, random codes, RQ-VAE, RQ and PQ (figure 8)."""
    variants = {
        name: pipeline.varied(codes={**_PLAIN, **codes}) for name, codes in _QUANTIZERS.items()
    }
    systems = tested(variants, seeds, Pipeline.test)
    return Outcome(
        title="quantizers",
        note="Figure 8. Codes of the same embeddings. RQ-VAE's become unique by a last code, as in "
        "the paper; those of RQ, PQ and of random codes by moving items to a free code. "
        "Collisions: share of the items that shared all their codes before; first seed.",
        systems=systems,
        facts={name: _code_facts(variant, seeds[0]) for name, variant in variants.items()},
    )


def clusters(
    pipeline: Pipeline, seeds: Sequence[int], *, values: Sequence[int] = (64, 128, 256, 512)
) -> Outcome:
    """K of hierarchical k-means: those of --values, or 64, 128, 256 and 512 (figure 9)."""
    own = pipeline.config.codes.codebook_size
    places = {f"K = {k}": k for k in _first(own, values)}
    variants = {name: pipeline.varied(codes={"codebook_size": k}) for name, k in places.items()}
    return Outcome(
        title="number of clusters",
        note="Figure 9.",
        systems=tested(variants, seeds, Pipeline.test),
        facts={name: _code_facts(variant, seeds[0]) for name, variant in variants.items()},
        places=places,
        axis="K",
        k=20,
    )


def scaling(
    pipeline: Pipeline, seeds: Sequence[int], *, values: Sequence[int] = (1, 2, 4, 8)
) -> Outcome:
    """Decoder layers, HSTU as deep beside: 1, 2, 4 and 8, or those of --values (figure 6)."""
    pipeline.check_rivals()
    layers = _first(pipeline.config.stage_two.num_decoder_layers, values)
    own = {
        f"{MODEL}, depth {count}": pipeline.varied(stage_two={"num_decoder_layers": count})
        for count in layers
    }
    hstu = {
        f"HSTU, depth {count}": pipeline.varied(stage_one={"num_layers": count}) for count in layers
    }
    systems = tested(own, seeds, Pipeline.test)
    systems |= tested(hstu, seeds, partial(Pipeline.rival, backbone="hstu", items="both"))
    ks = systems[f"{MODEL}, depth {layers[0]}"][0].ks
    metric = f"ndcg@{20 if 20 in ks else ks[-1]}"
    lines = {
        f"{name}, {label}": [
            (count, _mean(systems[f"{name}, depth {count}"], metric, mode))
            for count in sorted(layers)
        ]
        for name in (MODEL, "HSTU")
        for label, mode in (("all items", "unfiltered"), ("seen filtered", "filtered"))
    }
    return Outcome(
        title="number of layers",
        note="Figure 6. Depth: decoder layers of PRORec; layers of HSTU, which reads ids and text, "
        "in stage I's sizes, and ranks the catalogue.",
        systems=systems,
        figures=[curves([Panel(title=metric, lines=lines, x_label="layers", mark="max")])],
        k=20,
    )


def speed(pipeline: Pipeline, seeds: Sequence[int]) -> Outcome:
    """One code an item against two, as accurate and as fast as they are (figure 2)."""
    pipeline = pipeline.varied(joining=UNJOINED)
    systems = {
        **tested({MODEL: pipeline}, seeds, Pipeline.test),
        **tested({"two codes": pipeline}, seeds, two_codes),
    }
    found = measure_speed(pipeline.varied(seed=seeds[0]))
    panels = [
        Bars(
            title=f"seconds a user, {count} at once",
            values={name: tuple(rows[str(count)]) for name, rows in found.items()},  # type: ignore[misc]
        )
        for count in AT_ONCE
    ]
    return Outcome(
        title="one code or two",
        note="Figure 2: beam 100, top 5, the same encoder and decoder sizes; two codes have a "
        "decoder each, and both score the union of what they found. Seconds a user: medians of "
        "rounds in turn, with quartiles in the figure; first seed.",
        systems=systems,
        facts={
            name: {
                f"seconds a user, {count} at once": f"{value[0]:.4f}"
                for count, value in rows.items()
            }
            for name, rows in found.items()
        },
        figures=[bars(panels)],
    )


def rivals(pipeline: Pipeline, seeds: Sequence[int], *, values: Sequence[int] = (4,)) -> Outcome:
    """Sequence models, TIGER, EAGER's two codes, the floors (table 3); --values: trials of each."""
    pipeline.check_rivals()
    pipeline = pipeline.varied(joining=UNJOINED)
    contestants = {
        MODEL: prorec(pipeline),
        **dense_rivals(pipeline),
        "TIGER": tiger(pipeline),
        "EAGER's two codes": eager(pipeline),
    }
    possible = min(len(settings(contestant)) for contestant in contestants.values())
    (trials,) = values if len(values) == 1 else (0,)
    if not 1 <= trials <= possible:
        raise typer.BadParameter(
            f"--values must be one number of trials, from 1 to {possible}, "
            f"got {','.join(map(str, values))}"
        )
    found: dict[str, Searched] = {}
    for number, (name, contestant) in enumerate(contestants.items(), start=1):
        pipeline.run.screen.say(f"-- {name} ({number} of {len(contestants)})")
        found[name] = searched(contestant, trials, seeds)
    systems = {name: one.reports for name, one in found.items()}
    config = pipeline.config
    floors = fit_and_test_floors(
        pipeline.run, pipeline.data, config.text.fields, config.evaluation.ks
    )
    systems |= {name: [report] for name, report in floors.items()}
    return Outcome(
        title="rivals",
        note=f"Table 3, on the same split, epochs at most, batches, and users of early stopping. "
        f"Trials of each but the floors, ours included: {trials}; the best by NDCG@10 on "
        "validation, seen items filtered, with the first seed is shown with all seeds.",
        systems=systems,
        facts={
            name: {"validation NDCG@10": f"{one.validation:.4f}", "chosen": one.chosen}
            for name, one in found.items()
        },
    )


STUDIES: dict[str, Study[Pipeline]] = {
    "domination": domination,
    "ablation": ablation,
    "encoders": encoders,
    "quantizers": quantizers,
    "clusters": clusters,
    "scaling": scaling,
    "speed": speed,
    "rivals": rivals,
    "joining": joining,
    "beyond": beyond,
}
"""By the names of the command line."""


def _first(own: Any, values: Sequence[Any]) -> list[Any]:
    """The run's own value, which the others are compared with, and the others."""
    return [own, *(value for value in values if value != own)]


def _mean(reports: Sequence[Report], metric: str, mode: str) -> float:
    return float(sum(report.per_user(metric, mode).mean() for report in reports) / len(reports))


def _code_facts(pipeline: Pipeline, seed: int) -> Mapping[str, float | str]:
    """How many codes an item has, and how many items shared theirs at first."""
    tokenizer = pipeline.varied(seed=seed).tokenizer
    collisions = tokenizer.collisions
    rate = "" if collisions is None else f"{collisions.rate:.1%}"
    return {"levels": tokenizer.semantic_ids.num_levels, "collisions": rate}
