"""Sequence models beside an app's: each learns, in a stage that is trained once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
import torch
from evalrec import read_report, write_synthetic
from genrec import ITEM_INPUTS, BackboneName, SequenceModelConfig

from semrec.shared.data import Choosing, Columns, read_data
from semrec.shared.run import Run
from semrec.shared.screen import Screen
from semrec.shared.stage import Setting
from semrec.shared.training import baseline_stage

SMALL = {
    "dim": 16,
    "num_heads": 2,
    "dropout": 0.1,
    "temperature": 0.2,
    "num_negatives": 0,
    "learning_rate": 0.01,
    "epochs": 5,
    "batch_size": 64,
    "warmup_steps": 5,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    evaluation: Choosing = field(default_factory=lambda: Choosing(ks=(5, 10), validation_users=100))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting[Any]:
    folder = tmp_path_factory.mktemp("baselines")
    write_synthetic(folder / "data", num_items=60, num_users=200, seed=3)
    screen, config = Screen(), Config()
    run = Run.begin(
        folder / "run", app="test", config=dataclasses.asdict(config), data="", screen=screen
    )
    data = read_data(folder / "data", Columns(), screen)
    return Setting(run=run, inputs=data, config=config, device=torch.device("cpu"))


def no_contents() -> Sequence[torch.Tensor]:
    raise AssertionError("a model on ids reads no content")


@pytest.mark.parametrize("backbone", sorted({*get_args(BackboneName)} - {*ITEM_INPUTS}))
def test_every_backbone_learns(setting: Setting[Any], backbone: BackboneName) -> None:
    config = SequenceModelConfig(backbone=backbone, **SMALL)
    stage = baseline_stage(setting, f"{backbone}_ids", config, no_contents, reads=())
    popular = torch.from_numpy(setting.data.split.item_counts).float()
    order = popular.argsort(descending=True)[:10]
    share = sum(int(target) in order for target in setting.data.split.test.targets)
    floor = share / len(setting.data.split.test)
    assert stage.result().per_user("recall@10", "filtered").mean() > 1.1 * floor
    assert stage.file("weights.safetensors") == (
        setting.run.path / f"{backbone}_ids/weights.safetensors"
    )
    assert stage.file("weights.safetensors").exists()


def test_content_is_read_and_a_stage_is_trained_once(setting: Setting[Any]) -> None:
    contents = list(torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0)))
    config = SequenceModelConfig(items="both", **{**SMALL, "epochs": 1})
    stage = baseline_stage(setting, "sasrec_both", config, lambda: contents, reads=())
    report = stage.result()
    marker = stage.file("stage.json")
    before = marker.stat().st_mtime_ns
    again = baseline_stage(setting, "sasrec_both", config, no_contents, reads=()).result()
    assert marker.stat().st_mtime_ns == before
    assert again.metrics == report.metrics == read_report(stage.file("report.json")).metrics
    assert len(config.model(60, contents).item_encoder.tables) == 3
    assert (
        len(SequenceModelConfig(items="content", **SMALL).model(60, contents).item_encoder.tables)
        == 2
    )


def test_a_baseline_is_told_apart_by_all_that_decides_it(setting: Setting[Any]) -> None:
    config = SequenceModelConfig(**SMALL)
    for variant, name in (
        (setting, "sasrec_ids"),
        (setting.varied(seed=1), "variants/sasrec_ids,seed=1"),
        (
            setting.varied(evaluation={"validation_users": 50}),
            "variants/sasrec_ids,evaluation.validation_users=50",
        ),
    ):
        stage = baseline_stage(variant, "sasrec_ids", config, no_contents, reads=())
        assert stage.folder_name == name
