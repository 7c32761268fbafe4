"""CoCoRec's update, beside what all apps promise of theirs, which is in test_updating.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genrec import load_weights
from semtok import load_tokenizer

from semrec.cocorec.app import APP
from semrec.cocorec.model import CoCoRec, cocorec_loss
from semrec.cocorec.update import updated_config
from semrec.loading import load_run
from semrec.shared.errors import ExperimentError
from semrec.shared.update_config import Update


@pytest.fixture(scope="module")
def run(completed: Callable[[str], Path]) -> Path:
    return completed("cocorec")


def test_published_codes_stay_and_new_items_get_those_of_the_old_tokenizer(
    run: Path, updated: Any, week: Any
) -> None:
    old, new = (
        load_tokenizer(folder / "tokenizer/text") for folder in (run, updated("cocorec").out)
    )
    published = old.semantic_ids
    assert new.semantic_ids.item_ids[: len(published.item_ids)] == published.item_ids
    assert new.semantic_ids.codes[: len(published.codes)].tobytes() == published.codes.tobytes()
    loaded = load_run(updated("cocorec").out)
    assert loaded.codes is not None
    assert loaded.codes.item_ids == loaded.item_ids
    assert week.gone not in loaded.item_ids
    views = [loaded.vectors[f"view_{name}"] for name in ("title", "brand", "categories")]
    rows = [loaded.item_ids.index(item_id) for item_id in week.new]
    expected = old.quantizer.encode(np.concatenate(views, axis=1)[rows])
    assert np.array_equal(loaded.codes.codes[rows], expected)
    noted = json.loads((updated("cocorec").out / "tokenizer/stage.json").read_text())
    assert noted["new"] == len(week.new)
    assert noted["drift"] > 0


def test_growing_alone_leaves_the_weights_and_fuses_the_new_items(
    run: Path, week: Any, tmp_path: Path
) -> None:
    pipeline: Any = APP.open_update(run, week.folder, tmp_path / "out", Update(train=False), "cpu")
    pipeline.items.complete()
    pipeline.cocorec.complete()
    names = ("weights.safetensors", "deployed.safetensors")
    weights, deployed = (tmp_path / "out/cocorec" / name for name in names)
    assert weights.read_bytes() == (run / "cocorec" / names[0]).read_bytes()
    model = pipeline.untrained()
    load_weights(weights, model)
    assert isinstance(model, CoCoRec)
    with torch.no_grad():
        fused = model.eval().item_vectors()
    assert deployed.exists()
    assert torch.equal(pipeline.deployed().item_vectors(), fused)
    before = APP.reopen(run, "cpu").deployed().item_vectors()
    rows = pipeline.news.old_rows
    is_same = [row for row, item in enumerate(pipeline.item_ids) if item != week.renamed]
    kept = [row for row in is_same if rows[row] >= 0]
    torch.testing.assert_close(fused[kept], before[rows[kept]])


@pytest.mark.parametrize("samples", ["sequences", "pairs"])
def test_training_goes_over_what_is_new_and_as_much_that_is_old(
    samples: str, run: Path, week: Any, updated: Any
) -> None:
    pipeline: Any = APP.open_update(
        run, week.folder, updated("cocorec").out, Update(epochs_one=8, rate=1.0), "cpu"
    ).varied(model={"samples": samples, "data_share": 0.5})
    recipe = pipeline.config.model
    plan = pipeline.updated(pipeline._plan(recipe, None, cocorec_loss, None))
    batches = list(plan.batches(0))
    users, length = pipeline.samples.users.tolist(), recipe.history_length
    if samples == "pairs":
        assert sum(len(batch) for batch in batches) == len(pipeline.samples.pairs)
    else:
        drawn = {
            user: [item for item in targets if item < len(pipeline.data.catalog)]
            for batch in batches
            for user, targets in zip(batch.users.tolist(), batch.targets.tolist(), strict=True)
        }
        train = pipeline.data.split.train
        assert drawn == {row: list(train[user][1:][-length:]) for row, user in enumerate(users)}
    assert (plan.training.epochs, plan.training.patience) == (8, 8)


@pytest.mark.parametrize("source", ["sasrec", "mixed", "random"])
def test_codes_that_new_items_cannot_have_are_refused(source: str, run: Path) -> None:
    config: Any = APP.reopen(run, "cpu").varied(codes={"source": source}).config
    with pytest.raises(ExperimentError) as refused:
        updated_config(config, run)
    assert str(refused.value) == (
        f"{run} cannot be updated: codes.source is {source!r}, and new items can only have codes "
        "of their text: begin a new run with the command run"
    )
