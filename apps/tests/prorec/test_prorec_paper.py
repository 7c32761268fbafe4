"""PRORec's stage I as its paper has it: eq. 3 as printed, over the batch's own items, by DIN."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from genrec import DIN, Batch

from semrec.prorec.config import StageOne
from semrec.prorec.model import ItemEncoder, integrated, stage_one_loss, stage_one_model

NUM_ITEMS = 30
BATCH = Batch(
    history=torch.tensor([[3, 1, 4], [1, 5, NUM_ITEMS]]),
    targets=torch.tensor([9, 2]),
    users=torch.arange(2),
)
ROWS = [1, 2, 3, 4, 5, 9]
DIN_OPTIONS: dict[str, Any] = {"backbone": "din", "num_negatives": 12, "dim": 8}


def loss_and_model(**options: Any) -> tuple[dict[str, torch.Tensor], Any]:
    config = StageOne(**{**DIN_OPTIONS, **options})
    torch.manual_seed(0)
    model = stage_one_model(config, ItemEncoder(torch.randn(NUM_ITEMS, 6), config))
    with torch.no_grad():
        for parameter in model.item_encoder.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        return stage_one_loss(config, model, BATCH), model


def test_alignment_as_printed_over_the_batchs_own_items() -> None:
    losses, model = loss_and_model(
        alignment_among="batch",
        alignment_formula="printed",
        alignment_similarity="dot",
        alignment_temperature=1.0,
        alpha=0.5,
    )
    encoder = model.item_encoder
    collaborative, adapted = encoder.collaborative.detach(), encoder.adapted().detach()
    total = 0.0
    for i in ROWS:
        others = [float((collaborative[i] @ adapted[j]).exp()) for j in ROWS if j != i]
        total += float((collaborative[i] @ adapted[i]).exp()) / sum(others)
    assert float(losses["alignment"]) == pytest.approx(-0.5 * math.log(total), abs=1e-5)


def test_drawn_negatives_are_aligned_by_default() -> None:
    (batch, _), (drawn, model) = (
        loss_and_model(alignment_among=among) for among in ("batch", "drawn")
    )
    torch.testing.assert_close(batch["next_item"], drawn["next_item"])
    unit = torch.nn.functional.normalize
    encoder = model.item_encoder
    everything = unit(encoder.collaborative) @ unit(encoder.adapted()).T / 0.07
    scores = everything[ROWS][:, ROWS]
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(len(ROWS)))
    torch.testing.assert_close(batch["alignment"], expected.detach())
    assert drawn["alignment"] > batch["alignment"]


def test_din_as_published_does_not_see_the_order() -> None:
    swapped = torch.tensor([[1, 3, 4], [5, 1, NUM_ITEMS]])
    for recency in (True, False):
        _, model = loss_and_model(recency=recency)
        assert isinstance(model, DIN)
        if recency:
            torch.nn.init.normal_(model.from_distance)
        with torch.no_grad():
            same = torch.allclose(model.score(BATCH.history), model.score(swapped), atol=1e-6)
        assert same is not recency


def test_raw_integrated_embeddings_keep_their_length() -> None:
    tables = {name: torch.randn(5, 3) for name in ("collaborative", "adapted")}
    total = tables["collaborative"] + tables["adapted"]
    assert torch.equal(integrated(tables, "sum", "raw"), total)
    both = torch.cat([tables["collaborative"], tables["adapted"]], dim=1)
    assert torch.equal(integrated(tables, "concatenated", "raw"), both)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"backbone": "din", "num_negatives": 0},
            "num_negatives must be at least 1 where backbone",
        ),
        ({"backbone": "din", "dropout": 0.1}, "dropout must be left out where backbone is 'din'"),
        ({"backbone": "din", "num_layers": 1}, "num_layers must be left out where backbone is"),
        ({"backbone": "din", "similarity": "dot"}, "similarity must be left out where backbone"),
        ({"recency": False}, "recency must be left out where backbone is 'sasrec', which has none"),
        ({"alignment_temperature": 0.0}, "alignment_temperature must be positive, got 0.0"),
        ({"alignment_items": 0}, "alignment_items must be at least 1, got 0"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StageOne(**options)


def test_din_without_negatives_is_refused_at_the_start(
    launch: Callable[..., subprocess.CompletedProcess[str]], data: Path, tmp_path: Path
) -> None:
    config = tmp_path / "din.toml"
    config.write_text('[stage_one]\nbackbone = "din"\nnum_negatives = 0\n')
    done = launch("prorec", "run", "--data", data, "--out", tmp_path / "run", "--config", config)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "stage_one.num_negatives must be at least 1 where backbone is 'din'" in line
    assert not (tmp_path / "run").exists()
