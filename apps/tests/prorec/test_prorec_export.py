"""What `prorec export` writes, read by NumPy and onnxruntime: the generator's answers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from genrec import Recommender, SavedModel, Seq2Seq, Seq2SeqConfig, Trie

import semrec
from semrec.prorec.exporting import write_generator

HISTORIES: tuple[Sequence[int | str], ...] = (
    [],
    ["nobody"],
    [3],
    [3, 3, 7, 3],
    [10, 11, 12, 13],
    list(range(50)),
    [50] * 30 + ["nobody", 8],
)
"""Rows, but for ids that nobody knows: none, unknown, one, repeated, some, more than are read."""


@pytest.fixture(scope="module")
def run(completed: Callable[[str], Path]) -> semrec.LoadedRun:
    return semrec.load_run(completed("prorec"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SavedModel]:
    """The export of an untrained generator by levels, as in TIGER: no graph, no stage I."""
    torch.manual_seed(0)
    codes = torch.unique(torch.randint(0, 5, (90, 3)), dim=0)
    codes = codes[torch.randperm(len(codes))]
    config = Seq2SeqConfig(
        dim=16,
        num_heads=2,
        feedforward_dim=16,
        num_decoder_layers=2,
        num_encoder_layers=1,
        history_length=4,
        history_input="both",
        similarity="cosine",
        temperature=0.2,
    )
    assert (config.output_vocabulary, config.scoring) == ("level", "masked")
    vectors = torch.randn(len(codes), 8)
    model = Seq2Seq(config, Trie.build(codes, (5, 5, 5)), item_vectors=vectors).eval()
    ids = [f"i{row}" for row in range(len(codes))]
    saved = SavedModel(model=model, item_ids=ids, popularity=None, info={})
    folder = tmp_path_factory.mktemp("plain")
    facts = {"format": 1, "generator": write_generator(folder, saved, num_beams=len(codes))}
    (folder / "export.json").write_text(json.dumps(facts))
    return folder, saved


def shipped(folder: Path) -> ModuleType:
    """The module that the export holds, read from there."""
    spec = importlib.util.spec_from_file_location("recommend", folder / "recommend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(folder: Path, recommender: Recommender, num_beams: int) -> None:
    """Compares the shipped loop's answers to all histories with the recommender's."""
    generator = shipped(folder).Generator(folder, num_beams=num_beams)
    recommender.num_beams = num_beams
    ids, lists = recommender.item_ids, set()
    for rows in HISTORIES:
        history = [ids[row] if isinstance(row, int) else row for row in rows]
        for exclude in ((), history):
            answer = generator.recommend(history, top_k=10, exclude=exclude)
            (expected,) = recommender.recommend([history], top_k=10, exclude_seen=bool(exclude))
            assert [item for item, _ in answer] == [item.item_id for item in expected.items]
            scores = [score for _, score in answer]
            assert scores == pytest.approx([item.score for item in expected.items], abs=1e-4)
            lists.add(tuple(item for item, _ in answer))
    # All tell histories apart; the first two have none.
    assert len(lists) >= len(HISTORIES) - 1


@pytest.mark.parametrize("num_beams", [100, 10])
def test_the_shipped_loop_answers_as_the_generator_of_the_run(
    exported: Callable[[str], Path], run: semrec.LoadedRun, num_beams: int
) -> None:
    recommender = run.recommender("PRORec")
    assert isinstance(recommender, Recommender)
    assert recommender.model.item_graph is not None
    assert recommender.model.backbone is not None
    compare(exported("prorec"), recommender, num_beams)


@pytest.mark.parametrize("num_beams", [100, 10])
def test_a_generator_by_levels_answers_as_well(
    plain: tuple[Path, SavedModel], num_beams: int
) -> None:
    folder, saved = plain
    compare(folder, Recommender(saved.model, saved.item_ids), num_beams)


def test_the_search_returns_all_items_of_the_catalogue_that_are_not_excluded(
    plain: tuple[Path, SavedModel],
) -> None:
    folder, saved = plain
    generator = shipped(folder).Generator(folder)
    ids = saved.item_ids
    every = generator.recommend([ids[1]], top_k=len(ids))
    assert sorted(item for item, _ in every) == sorted(ids)
    assert sum(np.exp(score) for _, score in every) < 1  # codes of no item have their share
    rest = generator.recommend([ids[1]], top_k=len(ids), exclude=ids[2:])
    left = [(item, score) for item, score in every if item in ids[:2]]
    assert [item for item, _ in rest] == [item for item, _ in left]
    assert [score for _, score in rest] == pytest.approx([score for _, score in left], abs=1e-5)
    assert generator.recommend([ids[1]], exclude=ids) == []


def test_the_shipped_module_is_a_command_that_needs_nothing_of_this_project(
    exported: Callable[[str], Path], run: semrec.LoadedRun
) -> None:
    folder, ids = exported("prorec"), run.recommender().item_ids
    program = (
        "import runpy, sys; sys.argv = ['recommend.py', sys.argv[1]]\n"
        "for name in ('torch', 'genrec', 'semrec', 'polars'): sys.modules[name] = None\n"
        f"runpy.run_path({str(folder / 'recommend.py')!r}, run_name='__main__')"
    )
    history = f"{ids[3]},{ids[7]}"
    printed = subprocess.run(
        [sys.executable, "-c", program, history], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    expected = shipped(folder).Generator(folder).recommend([ids[3], ids[7]])
    assert [line.split("\t") for line in printed] == [[i, f"{s:.3f}"] for i, s in expected]


def test_an_export_of_another_version_is_refused(plain: tuple[Path, SavedModel]) -> None:
    folder, _ = plain
    facts = folder / "export.json"
    text = facts.read_text()
    try:
        facts.write_text(text.replace('"format": 1', '"format": 2'))
        with pytest.raises(ValueError, match="must be an export of format 1 with a generator"):
            shipped(folder).Generator(folder)
    finally:
        facts.write_text(text)
