"""The rivals: each learns, on what it is to read, in a stage that is trained once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import pytest
import torch
from evalrec import read_report, write_synthetic
from genrec import MaskedBatches

from semrec.shared.data import Columns, read_data
from semrec.shared.rivals import Rival, RivalBackbone, rival_loss, train_rival
from semrec.shared.run import Run
from semrec.shared.screen import Screen
from semrec.shared.setting import Setting

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
class Evaluation:
    ks: tuple[int, ...] = (5, 10)
    validation_users: int = 100


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("rivals")
    write_synthetic(folder / "data", num_items=60, num_users=200, seed=3)
    screen = Screen()
    run = Run(folder / "run", app="test", config={}, data="", screen=screen)
    data = read_data(folder / "data", Columns(), screen)
    return Setting(run=run, data=data, config=Config(), device=torch.device("cpu"))


@pytest.mark.parametrize("backbone", get_args(RivalBackbone))
def test_every_backbone_learns(setting: Setting, backbone: RivalBackbone) -> None:
    report = train_rival(setting, f"{backbone}_ids", Rival(backbone=backbone, **SMALL))
    popular = torch.from_numpy(setting.data.popularity()).float()
    order = popular.argsort(descending=True)[:10]
    share = sum(int(target) in order for target in setting.data.split.test.targets)
    floor = share / len(setting.data.split.test)
    assert report.per_user("recall@10", "filtered").mean() > 1.1 * floor
    assert (setting.run.path / f"{backbone}_ids/weights.safetensors").exists()


def test_content_is_read_and_a_stage_is_trained_once(setting: Setting) -> None:
    contents = list(torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0)))
    config = Rival(items="both", **{**SMALL, "epochs": 1})
    report = train_rival(setting, "sasrec_both", config, contents)
    marker = setting.run.path / "sasrec_both/stage.json"
    before = marker.stat().st_mtime_ns
    train_rival(setting, "sasrec_both", config, contents)
    assert marker.stat().st_mtime_ns == before
    again = read_report(setting.run.path / "sasrec_both/report.json")
    assert again.metrics == report.metrics
    assert len(config.model(60, contents).item_encoder.tables) == 3
    assert len(Rival(items="content", **SMALL).model(60, contents).item_encoder.tables) == 2


def test_bert4rec_is_asked_for_masked_items_only(setting: Setting) -> None:
    config = Rival(backbone="bert4rec", **{**SMALL, "dropout": 0.0})
    batches = config.batches(setting.data.split.train, 60, 0)
    assert isinstance(batches, MaskedBatches)
    batch = next(iter(batches(0)))
    assert ((batch.targets < 60) == (batch.history == 61)).all()
    torch.manual_seed(0)
    model = config.model(60)
    states, vectors = model(batch.history), model.item_vectors()
    masked = batch.targets < 60
    unit = torch.nn.functional.normalize
    logits = unit(states[masked], dim=1) @ unit(vectors, dim=1).T / 0.2
    expected = torch.nn.functional.cross_entropy(logits, batch.targets[masked])
    torch.testing.assert_close(rival_loss(config, model, batch)["next_item"], expected)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone must be one of.*'caser'"):
        Rival(backbone="caser")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"items must be one of.*'images'"):
        Rival(items="images")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contents must be given where items is 'both', got none"):
        Rival(items="both").model(9)
    assert Rival(backbone="gru4rec", items="content").title == "GRU4Rec, content"
