"""Sequence models of other packages: by their names, and only if trusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from genrec import (
    ArtifactError,
    Backbone,
    DenseRecommender,
    GRU4Rec,
    SASRec,
    Seq2Seq,
    Seq2SeqConfig,
    SequenceModelConfig,
    StateBackbone,
    Trie,
    backbone_class,
    load_backbone,
    load_model,
    make_backbone,
    save_model,
)
from torch import Tensor, nn

NUM_ITEMS, DIM = 12, 8
IDS = [f"i{row}" for row in range(NUM_ITEMS)]
HISTORIES = [["i1", "i4"], ["i3"], ["i2", "i2", "i9"]]
RECENT, TRUST = "mypackage.recent:RecentMean", ("mypackage",)
UNTRUSTED = f"{RECENT} is code of the package mypackage, which runs only where you trust it: add"
CONFIG = SequenceModelConfig(backbone=RECENT, dim=DIM, num_heads=2, similarity="dot")


@pytest.fixture
def recent(page_module: Callable[[str], ModuleType]) -> ModuleType:
    return page_module("mypackage.recent")


def test_a_model_of_another_package_is_made_by_the_sizes_that_it_takes(recent: ModuleType) -> None:
    with pytest.raises(ArtifactError, match=f"^{UNTRUSTED}"):
        CONFIG.model(NUM_ITEMS)
    model = CONFIG.model(NUM_ITEMS, trust=TRUST)
    assert type(model) is recent.RecentMean
    assert model.settings == {"dim": DIM, "similarity": "dot", "temperature": CONFIG.temperature}
    assert CONFIG.title == "RecentMean, ids"
    assert backbone_class("gru4rec") is GRU4Rec
    sasrec = make_backbone("sasrec", NUM_ITEMS, CONFIG, item_encoder=model.item_encoder)
    assert isinstance(sasrec, SASRec)
    assert sasrec.settings["num_heads"] == 2


def test_a_state_is_the_mean_of_what_came(recent: ModuleType) -> None:
    model = CONFIG.model(NUM_ITEMS, trust=TRUST)
    with torch.no_grad():
        states = model(torch.tensor([[3, 5, NUM_ITEMS]]))
        vectors = model.item_vectors()
        mean = model.get_submodule("linear")((vectors[3] + vectors[5]) / 2)
    torch.testing.assert_close(states[0, 1], mean)
    assert not states[0, 2].any()


def test_a_saved_model_answers_as_before(recent: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CONFIG.model(NUM_ITEMS, trust=TRUST)
    before = DenseRecommender(model, IDS, history_length=5)
    before.save(tmp_path / "model")
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/model: {UNTRUSTED}"):
        load_backbone(tmp_path / "model")
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/model: {UNTRUSTED}"):
        DenseRecommender.load(tmp_path / "model", trust=("my", "package"))
    after = DenseRecommender.load(tmp_path / "model", trust=TRUST)
    assert after.recommend(HISTORIES, top_k=4) == before.recommend(HISTORIES, top_k=4)
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert (config["class"], config["version"]) == (RECENT, None)


def test_a_generator_that_starts_from_one_is_saved_with_it(
    recent: ModuleType, tmp_path: Path
) -> None:
    codes = torch.stack([torch.arange(NUM_ITEMS) // 4, torch.arange(NUM_ITEMS) % 4], dim=1)
    config = Seq2SeqConfig(dim=DIM, num_heads=2, history_length=5, history_input="backbone")
    backbone = CONFIG.model(NUM_ITEMS, trust=TRUST)
    model = Seq2Seq(config, Trie.build(codes, (3, 4)), backbone=backbone)
    save_model(tmp_path / "model", model, IDS)
    with pytest.raises(ArtifactError, match=UNTRUSTED):
        load_model(tmp_path / "model")
    loaded = load_model(tmp_path / "model", trust=TRUST).model
    assert type(loaded.backbone) is recent.RecentMean


def test_what_is_no_sequence_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("mypackage.other")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Scores(Backbone):
        def score(self, history: Tensor) -> Tensor:
            return torch.zeros(len(history), self.num_items)

    for name, kind in {"A": nn.Linear, "B": 7, "C": Scores}.items():
        setattr(module, name, kind)
        with pytest.raises(
            ArtifactError,
            match=f"^mypackage.other:{name} cannot be a sequence model: it must be a class below "
            "genrec.StateBackbone",
        ):
            backbone_class(f"mypackage.other:{name}", trust=TRUST)
    module.D = type("D", (StateBackbone,), {})  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match=r"D cannot be a sequence model: it lacks forward"):
        backbone_class("mypackage.other:D", trust=TRUST)
    with pytest.raises(ArtifactError, match=r"mypackage.other has no E"):
        backbone_class("mypackage.other:E", trust=TRUST)
    with pytest.raises(ValueError, match=r"backbone must be one of sasrec, .*, got 'nosuch'"):
        backbone_class("nosuch")
    with pytest.raises(ValueError, match=r"backbone must be one of .*, got 'nosuch'"):
        SequenceModelConfig(backbone="nosuch")
    with pytest.raises(TypeError, match=r"model must have its settings to be saved"):
        DenseRecommender(Scores(NUM_ITEMS, dim=DIM), IDS, history_length=5).save(tmp_path / "m")
