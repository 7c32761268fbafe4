# ruff: noqa: D103
"""Drawn pictures to recommendations: codes of pictures, and TSSR's image stream against ids."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evalrec import Report, read_report
from fusion import precomputed
from semtok.cli import main as semtok_main

from semrec.tssr import app
from semrec.tssr.config import Encoder, Model
from semrec.tssr.encoders import ImageEncoder
from semrec.tssr.model import TwoStream

SETTINGS = """
[content]
streams = ["image"]
dim = 16
{content}
[model]
dim = 32
num_heads = 2
feedforward_dim = 64
epochs = 12
batch_size = 32
warmup_steps = 10
dropout = 0.2
learning_rate = 0.003
{model}
[evaluation]
validation_users = 240
"""
END_TO_END = """
mode = "end-to-end"
[content.encoder]
image_size = 32
batch_items = 32
"""


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a command line in this process, which must succeed."""

    def called(main: Callable[[], None], *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        assert code == 0

    return called


def purity(codes: list[int]) -> float:
    """The share of items that belong to the largest group of their code."""
    groups: dict[int, list[int]] = {}
    for item, code in enumerate(codes):
        groups.setdefault(code, []).append(item % 8)
    return sum(max(Counter(group).values()) for group in groups.values()) / len(codes)


def test_codes_of_an_image_view_tell_what_pictures_show(
    pictures: Any, called: Callable[..., None], tmp_path: Path
) -> None:
    """Most items with the same image code are of one group. This is not so for title codes."""
    views = f"title=lsa,image=drawn-clip@{pictures.weights['drawn-clip']}"
    options = ("--quantizer", "rq", "--levels", 1, "--codebook-size", 16, "--pca", 8)
    options = (*options, "--collisions", "allow")
    items = pictures.data / "items.jsonl"
    called(semtok_main, "fit", items, "--views", views, "-o", tmp_path / "fitted", *options)
    tokenizer = ("--tokenizer", tmp_path / "fitted")
    called(semtok_main, "encode", items, *tokenizer, "--output", tmp_path / "codes.jsonl")
    lines = (tmp_path / "codes.jsonl").read_text().splitlines()
    of_titles, of_images = zip(*(json.loads(line)["codes"] for line in lines), strict=True)
    assert purity(list(of_images)) > 0.75
    assert purity(list(of_titles)) < 0.5


def recall(report: Report, users: np.ndarray) -> float:
    """Recall@10 of some users, the items of their history left out."""
    return float((report.ranks["filtered"][users] <= 10).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "mode"), [("resnet50", "stored"), ("drawn-clip", "end-to-end")]
)
def test_the_image_stream_beats_ids(
    pictures: Any, called: Callable[..., None], tmp_path: Path, network: str, mode: str
) -> None:
    """Only pictures show the group of a new item, and they help to rank rare items."""
    source = f'image_embedding = "{network}"\nimage_weights = "{pictures.weights[network]}"'
    trained = mode == "end-to-end"
    settings = SETTINGS.format(
        content=source + (END_TO_END if trained else ""),
        model='head = "ids"\nid_start = "random"' if trained else "",
    )
    (tmp_path / "pictures.toml").write_text(settings)
    run = tmp_path / "run"
    arguments = ("--data", pictures.data, "--out", run, "--config", tmp_path / "pictures.toml")
    called(app.main, "run", *arguments)
    both, ids, images = (
        read_report(next((run / stage).glob("report*.json")))
        for stage in ("tssr", "sasrec_ids", "sasrec_content")
    )
    everyone, new = np.ones_like(pictures.is_new), pictures.is_new
    assert both.counts["cold_targets"] == new.sum()
    assert recall(images, everyone) > recall(ids, everyone) + 0.2
    assert recall(both, everyone) > recall(ids, everyone) + 0.1
    assert recall(images, new) > recall(ids, new) + 0.3
    assert recall(both, ~new) > recall(ids, ~new) + 0.2
    assert recall(ids, ~new) > 0.35  # of items that are not new, ids learn something too


@pytest.mark.parametrize(
    ("network", "trained"),
    [("resnet50", "layers"), ("drawn-clip", "layers"), ("drawn-clip", "lora")],
)
def test_networks_are_trained_in_part_and_kept_as_tables(
    pictures: Any, network: str, trained: str
) -> None:
    torch.manual_seed(0)
    options = Encoder(image_size=32, trained=trained, trained_layers=1)  # type: ignore[arg-type]
    paths = [pictures.data / f"{item}.png" for item in range(6)]
    content = ImageEncoder(paths, 8, model=network, weights="random", options=options)
    vectors = content(torch.tensor([2, 0]))
    vectors.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in content.parameters())
    assert vectors.std() > 0
    assert content.projection.in_features == {"resnet50": 2048, "drawn-clip": 32}[network]
    whole = TwoStream(Model(dim=8, num_heads=2, feedforward_dim=16, head="ids"), [content])
    history = torch.tensor([[0, 1]])
    scores = precomputed(whole).score(history), whole.eval().score(history)
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "trained", "weights", "words"),
    [
        ("resnet50", "lora", "random", "got 'lora'"),
        ("resnet50", "all", "none", "weights of resnet50 must be"),
        ("unknown", "all", "random", "got 'unknown'"),
    ],
)
def test_what_no_network_can_do_is_refused(
    pictures: Any, network: str, trained: str, weights: str, words: str
) -> None:
    options = Encoder(image_size=32, trained=trained)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        ImageEncoder([pictures.data / "0.png"], 8, model=network, weights=weights, options=options)
