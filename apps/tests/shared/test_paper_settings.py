"""The papers' settings: each `paper.toml` says what its paper prints, and runs."""

from __future__ import annotations

import importlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from semrec.shared.configuration import build_config, load_config

SEMREC = Path(__file__).resolve().parents[2] / "semrec"

PRINTED: dict[str, dict[str, object]] = {
    "prorec": {
        "text.embedding": "meta-llama/Llama-2-7b-hf",
        "stage_one.backbone": "din",
        "stage_one.dim": 128,
        "stage_one.history_length": 20,
        "stage_one.alpha": 1.0,
        "stage_one.alignment_among": "batch",
        "stage_one.learning_rate": 0.001,
        "stage_one.batch_size": 256,
        "stage_one.adapted_weight": 1.0,
        "codes.quantizer": "hierarchical",
        "codes.codebook_size": 256,
        "codes.balanced": False,
        "stage_two.num_encoder_layers": 1,
        "stage_two.num_decoder_layers": 4,
        "stage_two.dim": 128,
        "stage_two.history_length": 20,
        "stage_two.history_input": "codes",
        "stage_two.output_vocabulary": "level",
        "stage_two.beta": 1.0,
        "stage_two.distillation_similarity": "dot",
        "stage_two.distillation_temperature": 1.0,
        "stage_two.learning_rate": 0.001,
        "stage_two.batch_size": 256,
        "evaluation.num_beams": 100,
        "evaluation.ks": (10, 20),
    },
    "cocorec": {
        "views.embedding": "sentence-transformers/sentence-t5-base",
        "views.views": ("title", "brand", "features", "categories", "description"),
        "views.dim": 128,
        "codes.codes_per_view": 4,
        "codes.codebook_size": 256,
        "model.dim": 128,
        "model.fusion_layers": 2,
        "model.num_layers": 2,
        "model.num_heads": 2,
        "model.feedforward_dim": 512,
        "model.temperature": 0.07,
        "model.mask_ratio": 0.5,
        "model.similarity": "cosine",
        "model.history_length": 20,
        "model.patience": 10,
        "model.norm": "post",
        "evaluation.ks": (5, 10),
    },
    "tssr": {
        "content.mode": "end-to-end",
        "content.embedding": "google-bert/bert-base-uncased",
        "content.image_embedding": "resnet50",
        "model.head": "ids",
        "model.dim": 128,
        "model.num_heads": 4,
        "model.num_cross_layers": 1,
        "model.history_length": 10,
        "model.similarity": "dot",
        "model.temperature": 1.0,
        "model.num_negatives": 0,
        "model.item_similarity": "dot",
        "model.user_weight": 1.0,
        "model.item_weight": 1.0,
        "model.learning_rate": 0.0001,
        "model.batch_size": 256,
        "evaluation.ks": (10, 20),
    },
}
"""What each paper's section on settings prints, read from its text."""

SEARCHED: dict[str, tuple[float, ...]] = {
    "model.learning_rate": (0.003, 0.001, 0.0005),
    "model.dropout": (0.1, 0.2, 0.3, 0.4, 0.5),
    "model.fusion_dropout": (0.1, 0.2, 0.3, 0.4, 0.5),
    "model.alpha": (0.2, 0.4, 0.6, 0.8),
    "model.beta": (0.2, 0.4, 0.6, 0.8),
}
"""Where CoCoRec's paper prints what it tried."""

TINY: dict[str, dict[str, dict[str, object]]] = {
    "prorec": {
        "text": {"embedding": "lsa"},
        "stage_one": {"dim": 16, "epochs": 1, "warmup_steps": 2},
        "codes": {"codebook_size": 8},
        "stage_two": {"dim": 16, "epochs": 1, "warmup_steps": 2},
        "evaluation": {"num_beams": 20, "validation_beams": 10, "validation_users": 40},
    },
    "cocorec": {
        "views": {"embedding": "lsa", "views": ("title", "brand", "categories"), "dim": 16},
        "codes": {"codebook_size": 8},
        "model": {"dim": 16, "feedforward_dim": 32, "epochs": 1, "warmup_steps": 2},
        "item_ids": {"epochs": 1},
        "evaluation": {"validation_users": 40},
    },
    "tssr": {
        "content": {"embedding": "minilm"},
        "model": {"dim": 16, "feedforward_dim": 32, "epochs": 1},
        "evaluation": {"validation_users": 40},
    },
}
"""What lets a run take seconds, and needs no network: sizes, epochs and the text encoder."""


def paper_values(name: str) -> dict[str, Any]:
    return tomllib.loads((SEMREC / name / "paper.toml").read_text(encoding="utf-8"))


def value_of(config: object, key: str) -> object:
    table, field = key.split(".")
    value: object = getattr(getattr(config, table), field)
    return value


@pytest.mark.parametrize("name", PRINTED)
def test_a_paper_toml_has_what_the_paper_prints(name: str) -> None:
    app = importlib.import_module(f"semrec.{name}.app").APP
    config = load_config(app.config, SEMREC / name / "paper.toml")
    assert {key: value_of(config, key) for key in PRINTED[name]} == PRINTED[name]
    if name == "cocorec":
        for key, tried in SEARCHED.items():
            assert value_of(config, key) in tried


@pytest.mark.parametrize("name", PRINTED)
def test_the_papers_settings_run(name: str, data: Path, tmp_path: Path) -> None:
    values = paper_values(name)
    for table, changes in TINY[name].items():
        values[table] = {**values.get(table, {}), **changes}
    values = {
        table: {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        for table, fields in values.items()
    }
    app = importlib.import_module(f"semrec.{name}.app").APP
    pipeline = app.open(data, tmp_path / "run", build_config(app.config, values, name), "cpu")
    app.complete(pipeline)
    test = json.loads((tmp_path / "run/metrics.json").read_text(encoding="utf-8"))["test"]
    model = {"prorec": "PRORec", "cocorec": "CoCoRec", "tssr": "TSSR"}[name]
    assert test[model]["counts"]["users"] == 300
    if name == "tssr":  # the unimodal encoders are as deep as the baselines
        layers = {len(stream.layers) + 1 for stream in pipeline.model().streams}
        baseline = pipeline._untrained_baseline("ids")
        assert layers == {len(baseline.layers) + 1} == {2}
