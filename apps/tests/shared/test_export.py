"""`export` of the three apps: what it writes is the run's, and it is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import faiss
import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from genrec import DenseRecommender, query_batches

import semrec
from semrec.shared.exporting import ItemIndex, write_index

Launch = Callable[..., subprocess.CompletedProcess[str]]
OfApp = Callable[[str], Path]

RANKINGS = {"prorec": "stage I (SASRec, ids and text)", "cocorec": "CoCoRec", "tssr": "TSSR"}
"""The row in tables of the model whose vectors are exported."""

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "export.md"


@pytest.fixture(params=RANKINGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def queries_of(folder: Path, histories: list[list[int]], num_items: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "query.onnx")
    length = json.loads((folder / "export.json").read_text())["index"]["history_length"]
    ((_, history),) = query_batches(
        histories, num_items=num_items, history_length=length, batch_size=len(histories)
    )
    (query,) = session.run(None, {"history": history.numpy()})
    return query


def test_items_and_index_are_those_of_the_run(name: str, exported: OfApp, completed: OfApp) -> None:
    folder, run = exported(name), semrec.load_run(completed(name))
    items = pl.read_parquet(folder / "items.parquet")
    assert items["item_id"].to_list() == list(run.item_ids)
    assert items["title"].to_list() == [run.titles[item_id] for item_id in run.item_ids]
    assert items["count"].sum() > 0
    if name == "tssr":
        assert "codes" not in items.columns
    else:
        assert items["codes"].to_list() == run.codes.codes.tolist()
    index = faiss.read_index(str(folder / "index.faiss"))
    vectors = np.array(items["vector"].to_list(), dtype=np.float32)
    assert np.array_equal(index.reconstruct_n(0, index.ntotal), vectors)
    assert (vectors.std(axis=0) > 0).all()
    facts = json.loads((folder / "export.json").read_text())
    assert (facts["format"], facts["app"], facts["num_items"]) == (1, name, len(items))
    files = {path.name for path in folder.iterdir()} - {"export.json"}
    digests = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}
    assert facts["sha256"] == digests


def test_the_index_ranks_as_the_model_does(name: str, exported: OfApp, completed: OfApp) -> None:
    folder = exported(name)
    recommender = semrec.load_run(completed(name)).recommender(RANKINGS[name])
    assert isinstance(recommender, DenseRecommender)
    model, num_items = recommender.model, recommender.model.num_items
    histories = [[], [3], [3, 3, 7], list(range(9)), [5, 80], list(range(40)), [99]]
    index = faiss.read_index(str(folder / "index.faiss"))
    for count in (1, 3, 7):
        scores, best = index.search(queries_of(folder, histories[:count], num_items), num_items)
        batches = query_batches(
            histories[:count],
            num_items=num_items,
            history_length=recommender.history_length,
            batch_size=count,
        )
        ((_, history),) = batches
        with torch.inference_mode():
            expected = model.score(history).numpy()
        ranked_scores = np.take_along_axis(expected, best, axis=1)
        np.testing.assert_allclose(scores, ranked_scores, atol=1e-4)
        np.testing.assert_allclose(scores, -np.sort(-expected, axis=1), atol=1e-4)


def test_vectors_without_a_query_are_compared_by_their_cosine(tmp_path: Path) -> None:
    vectors = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    index = ItemIndex.of_directions(vectors, "items")
    assert (index.query, index.history_length) == (None, None)
    write_index(tmp_path / "index.faiss", index.vectors)
    scores, best = faiss.read_index(str(tmp_path / "index.faiss")).search(index.vectors.numpy(), 2)
    assert best[:, 0].tolist() == list(range(20))
    nearest = torch.cosine_similarity(vectors, vectors[best[:, 1]])
    np.testing.assert_allclose(scores, np.stack([np.ones(20), nearest.numpy()], 1), atol=1e-5)


def test_the_examples_of_the_guide_run(exported: OfApp, tmp_path: Path) -> None:
    folder = exported("prorec")
    (tmp_path / "export").symlink_to(folder)
    (tmp_path / "recommend.py").symlink_to(folder / "recommend.py")
    ids = pl.read_parquet(folder / "items.parquet")["item_id"].to_list()
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python export\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    printed = []
    for block in blocks:
        program = block.replace('"i1"', repr(ids[1])).replace('"i7"', repr(ids[7]))
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(done.stdout)
    assert "item_id" in printed[0]
    every, unseen = printed[1].splitlines()
    assert every.count("item") == unseen.count("item") == 10
    assert not any(repr(ids[row]) in unseen for row in (1, 7))


def test_what_is_there_is_replaced_only_by_force_and_only_where_it_is_an_export(
    launch: Launch, completed: OfApp, exported: OfApp, tmp_path: Path
) -> None:
    run, out = completed("cocorec"), tmp_path / "out"
    command = ("export", "--run", run, "--out", out)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    done = launch("cocorec", *command, "--force")
    assert (
        done.stderr == f"error: {out} holds something else than an export: choose another --out\n"
    )
    (out / "export.json").write_text("{}")
    done = launch("cocorec", *command)
    assert done.stderr == f"error: {out} exists: choose another --out, or --force\n"
    assert {path.name for path in out.iterdir()} == {"mine.txt", "export.json"}
    # A kill or a full disk in the middle: what was there stays, and nothing is left beside it.
    with mock.patch("semrec.shared.exporting.write_query", side_effect=OSError(28, "No space")):
        assert launch("cocorec", *command, "--force").returncode == 1
    assert {path.name for path in out.iterdir()} == {"mine.txt", "export.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert launch("cocorec", *command, "--force").returncode == 0
    assert {path.name for path in out.iterdir()} == {
        path.name for path in exported("cocorec").iterdir()
    }


@pytest.mark.parametrize("inside", [".", "deeper/folder"])
def test_an_export_is_no_part_of_its_run(launch: Launch, completed: OfApp, inside: str) -> None:
    run = completed("cocorec")
    done = launch("cocorec", "export", "--run", run, "--out", run / inside, "--force")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--out must not be the run or a folder of it" in done.stderr
    assert not (run / "deeper").exists()


def test_a_missing_extra_is_named_before_a_model_is_loaded(launch: Launch, tmp_path: Path) -> None:
    with mock.patch.dict(sys.modules, {"onnxscript": None}):
        done = launch("tssr", "export", "--run", tmp_path / "run", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (
        1,
        "error: export needs an extra (no module onnxscript): pip install 'semrec[export]'\n",
    )


def test_what_is_no_run_is_refused(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    done = launch("tssr", "export", "--run", tmp_path / "run", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "run.json is missing" in done.stderr
    assert not (tmp_path / "out").exists()
