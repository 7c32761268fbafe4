"""Recommenders to a folder, and to a faked hub on loopback, and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from genrec import (
    ArtifactError,
    DenseRecommender,
    Recommender,
    SASRec,
    Seq2Seq,
    Seq2SeqConfig,
    Trie,
)

pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")
from genrec.hf import HubRecommender, model_card

ITEM_IDS = [f"item-{row}" for row in range(9)]
HISTORIES = [["item-1", "item-2"], ["item-8"]]


def make(kind: str) -> Recommender | DenseRecommender:
    torch.manual_seed(0)
    if kind == "dense":
        model = SASRec(9, dim=8, num_layers=1, history_length=5)
        return DenseRecommender(model, ITEM_IDS, history_length=5)
    trie = Trie.build(torch.cartesian_prod(torch.arange(3), torch.arange(3)), (3, 3))
    config = Seq2SeqConfig(dim=8, num_heads=2, num_decoder_layers=1, feedforward_dim=8)
    return Recommender(Seq2Seq(config, trie), ITEM_IDS, popularity=torch.arange(9))


def answers(recommender: Recommender | DenseRecommender) -> list[list[tuple[str, float]]]:
    return [
        [(item.item_id, item.score) for item in answer.items]
        for answer in recommender.recommend(HISTORIES, top_k=4)
    ]


@pytest.mark.parametrize("kind", ["generator", "dense"])
def test_a_folder_is_ours_with_a_card(kind: str, tmp_path: Path):
    recommender, folder = make(kind), tmp_path / "saved"
    card = {"title": "Walks", "tables": {"Metrics": {"ndcg@10": ".1 (.09|.11)"}}, "license": "mit"}
    hub = HubRecommender(recommender, info={"epochs": 3})
    assert hub.save_pretrained(folder, model_card_kwargs=card) is None
    back = HubRecommender.from_pretrained(folder)
    assert type(back.recommender) is type(recommender)
    assert back.info == {"epochs": 3}
    assert answers(back.recommender) == answers(recommender)
    assert answers(type(recommender).load(folder)) == answers(recommender)
    text = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "license: mit",
        "library_name: genrec",
        "# Walks",
        "| ndcg@10 | .1 (.09\\|.11) |",
    ):
        assert words in text
    with pytest.raises(TypeError, match="info must be left out"):
        HubRecommender.from_pretrained(folder, info={})
    with pytest.raises(FileExistsError, match="is not empty, so nothing is written"):
        hub.save_pretrained(folder)
    with pytest.raises(TypeError, match="config must be left out"):
        hub.save_pretrained(tmp_path / "other", config={"a": 1})
    assert not any(path.suffix in (".bin", ".pkl", ".pt") for path in folder.iterdir())
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtifactError, match="is damaged"):
        HubRecommender.from_pretrained(folder)


def test_a_card_says_what_its_author_knows():
    assert "# Seq2Seq over 9 items" in str(HubRecommender(make("generator")).generate_model_card())
    card = model_card("T", text="Words.", tags=["x"], datasets=["y"])
    assert card.data.tags == ["x"]
    assert card.data.datasets == ["y"]
    assert "# T\n\nWords.\n\n## Use" in str(card)


def test_a_recommender_goes_to_the_hub_and_back(tmp_path: Path, hub: Any):
    recommender = make("generator")
    HubRecommender(recommender).save_pretrained(tmp_path / "here")
    script = (
        "from genrec.hf import HubRecommender\n"
        "HubRecommender.from_pretrained('here').push_to_hub('me/walker', private=True)\n"
        "HubRecommender.from_pretrained('me/walker').save_pretrained('back')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=hub.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert {"README.md", "config.json"} < hub.files.keys()
    assert answers(Recommender.load(tmp_path / "back")) == answers(recommender)
