"""TSSR's update, beside what all apps promise of theirs, which is in test_updating.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semrec.shared.errors import ExperimentError
from semrec.shared.update_config import Update
from semrec.tssr.app import APP
from semrec.tssr.config import Content, Model
from semrec.tssr.update import grown_ids, updated_config


@pytest.fixture(scope="module")
def run(completed: Callable[[str], Path]) -> Path:
    return completed("tssr")


def test_new_rows_of_ids_start_at_what_their_content_says() -> None:
    """Old rows that follow their content by a linear map: the new ones follow it too."""
    draw = torch.Generator().manual_seed(0)
    contents = torch.randn(3000, 4, generator=draw) + 5
    truth = contents @ torch.randn(4, 6, generator=draw) + torch.randn(6, generator=draw)
    old_rows = torch.randperm(3000, generator=draw) - 40
    old_rows = old_rows.clamp(min=-1)
    ids = torch.zeros(2960, 6)
    is_new = old_rows < 0
    ids[old_rows[~is_new]] = truth[~is_new]
    table = grown_ids(ids, old_rows, contents)
    assert torch.equal(table[~is_new], truth[~is_new])
    torch.testing.assert_close(table[is_new], truth[is_new], atol=0.05, rtol=0)
    assert torch.equal(grown_ids(ids, old_rows.clamp(min=0), contents), ids[old_rows.clamp(min=0)])


def test_a_penalty_holds_where_items_are_fewer_than_dimensions() -> None:
    draw = torch.Generator().manual_seed(0)
    contents, ids = torch.randn(5, 9, generator=draw), torch.randn(4, 3, generator=draw)
    table = grown_ids(ids, torch.tensor([0, 1, 2, 3, -1]), contents)
    assert table[4].norm() < 2 * ids.norm(dim=1).max()


def test_growing_alone_leaves_all_that_is_not_of_new_items(
    run: Path, week: Any, tmp_path: Path
) -> None:
    pipeline: Any = APP.open_update(run, week.folder, tmp_path / "out", Update(train=False), "cpu")
    pipeline.items.complete()
    pipeline.tssr.complete()
    old, new = APP.reopen(run, "cpu").model().state_dict(), pipeline.model().state_dict()
    rows = torch.from_numpy(pipeline.news.old_rows)
    assert list(old) == list(new)
    for name, values in old.items():
        if name == "streams.0.item_encoder.ids":
            assert torch.equal(new[name][rows >= 0], values[rows[rows >= 0]])
            assert new[name][rows < 0].abs().sum() > 0
        else:
            assert torch.equal(new[name], values)


def test_content_that_is_encoded_end_to_end_is_refused(run: Path) -> None:
    config: Any = APP.reopen(run, "cpu").config
    config = dataclasses.replace(
        config,
        content=Content(mode="end-to-end"),
        model=Model(head="ids", id_start="random"),
    )
    with pytest.raises(ExperimentError) as refused:
        updated_config(config, run)
    assert str(refused.value) == (
        f"{run} cannot be updated: content.mode is 'end-to-end', and a run keeps the vectors of "
        "its items without the network that makes them: begin a new run with the command run"
    )
