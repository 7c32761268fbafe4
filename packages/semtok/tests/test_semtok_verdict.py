"""Verdicts, warnings, hints, counters: what is said of codes, and what is not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok import (
    CatalogError,
    HierarchicalKMeans,
    SemanticIds,
    load_tokenizer,
    measure_health,
    neighbour_overlap,
)
from semtok.collisions import Collisions
from semtok.comparing import compared, comparison_rows
from semtok.console import Console
from semtok.page.words import typical_words, words_of
from semtok.verdict import balance_hint, codebook_hint, collision_warning, judged, needed_codes

Semtok = Callable[..., Any]
X = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)


def table(codes: list[list[int]] | np.ndarray, sizes: tuple[int, ...]) -> SemanticIds:
    array = np.array(codes, dtype=np.int64)
    ids = [f"i{row}" for row in range(len(array))]
    return SemanticIds(codes=array, codebook_sizes=sizes, item_ids=ids, allow_collisions=True)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30),
    sizes=st.tuples(*[st.integers(4, 9)] * 3),
)
def test_a_level_needs_as_many_codes_as_the_largest_group_before_it(
    rows: list[tuple[int, ...]], sizes: tuple[int, ...]
) -> None:
    expected = []
    for level, size in enumerate(sizes):
        prefixes = [row[:level] for row in rows]
        expected.append(min(size, max(map(prefixes.count, prefixes))))
    assert needed_codes(table([list(row) for row in rows], sizes)) == expected


def test_codes_of_a_tree_and_a_last_level_that_numbers_are_good() -> None:
    tree = SemanticIds.fit(X, codebook_size=18)  # its third level is of few items
    verdict = judged(tree.health, tree)
    assert verdict.is_good
    assert verdict.sentence.startswith(
        "No two items share all their codes, the first level uses 18 of 18 codes, about as evenly "
    )
    assert "of an item's nearest neighbours are nearest by codes as well" in verdict.sentence
    suffixed = SemanticIds.fit(X, quantizer="rq", num_levels=2, codebook_size=32, policy="suffix")
    assert suffixed.health.levels[-1].utilisation < 0.2
    assert judged(suffixed.health, suffixed).is_good


FAULTS: list[tuple[list[list[int]], tuple[int, ...], dict[str, Any], str]] = [
    (
        [[row % 16, 0] for row in range(64)],
        (16, 4),
        {},
        "100.0% of items share all their codes with another, as many as 4 the same ones; level 2 "
        "uses 1 of the 4 codes that it could",
    ),
    (
        [[row % 3, row // 3] for row in range(96)],
        (64, 64),
        {},
        "Level 1 uses 3 of the 64 codes that it could use.",
    ),
    (
        [[max(0, row - 400), row] for row in range(416)],
        (16, 512),
        {},
        "The first level uses its codes as unevenly as if there were 1.",
    ),
    (
        [[row % 16, row // 16] for row in range(256)],
        (16, 16),
        {"collisions": Collisions(rate=0.98, largest_bucket=90)},
        "98.0% of items collided before this was resolved, so that their last codes say little.",
    ),
    (
        [[row % 16, row // 16] for row in range(256)],
        (16, 16),
        {"neighbour_overlap": 0.05},
        "Codes reflect neighbours hardly better than chance (5.0% of the nearest ones, by "
        "chance 3.9%).",
    ),
]


@pytest.mark.parametrize(("codes", "sizes", "measured", "words"), FAULTS)
def test_a_fault_is_named_with_its_number(
    codes: list[list[int]], sizes: tuple[int, ...], measured: dict[str, Any], words: str
) -> None:
    ids = table(codes, sizes)
    verdict = judged(measure_health(ids, **measured), ids)
    assert not verdict.is_good
    assert verdict.sentence.startswith(words)
    assert verdict.sentence.endswith(".")


def test_no_items_are_no_fault() -> None:
    ids = table(np.empty((0, 2), dtype=np.int64), (4, 4))
    assert judged(measure_health(ids), ids).sentence == "There are no items."


def test_most_items_have_to_collide_for_a_warning() -> None:
    assert collision_warning(Collisions(rate=0.49, largest_bucket=9)) is None
    warning = collision_warning(Collisions(rate=0.98, largest_bucket=1234))
    assert warning is not None
    assert warning.startswith(
        "98.0% of items shared all their codes with another, as many as 1,234"
    )


@pytest.mark.parametrize("codebook_size", [3, 5, 16, 18, 32])
def test_a_hint_is_given_where_balance_saves_a_level(codebook_size: int) -> None:
    tree = HierarchicalKMeans.fit(X, codebook_size=codebook_size)
    balanced = HierarchicalKMeans.fit(X, codebook_size=codebook_size, balanced=True)
    hint = balance_hint(tree)
    assert (hint is None) == (tree.num_levels == balanced.num_levels)
    if hint is not None:
        enough = balanced.num_levels
        deep = sum(len(path) > enough for path in paths_of(tree))
        assert hint == (
            f"hint: {deep} of 300 items need more than {enough} levels; with --balanced, all would "
            "do with that"
        )
    assert balance_hint(balanced) is None
    assert balance_hint(SemanticIds.fit(X, quantizer="rq").quantizer) is None


@pytest.mark.parametrize(("num_items", "size"), [(8, 4), (100, 16), (256, 16), (257, None)])
def test_a_hint_is_given_where_each_item_has_a_code_of_its_own(
    num_items: int, size: int | None
) -> None:
    x = np.random.default_rng(0).normal(size=(num_items, 4)).astype(np.float32)
    hint = codebook_hint(HierarchicalKMeans.fit(x, codebook_size=256))
    assert (hint is None) == (size is None)
    if hint is not None:
        assert hint == (
            f"hint: each of {num_items} items has a code of its own, so the codes do not show "
            f"which items are alike; with --codebook-size {size}, similar items share a code"
        )
    assert codebook_hint(HierarchicalKMeans.fit(x[:7], codebook_size=256)) is None
    assert codebook_hint(SemanticIds.fit(X, quantizer="rq").quantizer) is None


def paths_of(tree: HierarchicalKMeans) -> list[list[int]]:
    """The path of each leaf, from its parents upwards."""
    first = 1 + np.cumsum(tree.num_children) - tree.num_children
    parent = {
        int(first[node]) + child: node
        for node in range(len(first))
        for child in range(int(tree.num_children[node]))
    }
    paths = []
    for leaf in tree.leaves.tolist():
        path = []
        while leaf in parent:
            path.append(leaf)
            leaf = parent[leaf]
        paths.append(path)
    return paths


def write_vectors(folder: Path, x: np.ndarray = X, name: str = "x") -> tuple[str, ...]:
    np.save(folder / f"{name}.npy", x)
    (folder / f"{name}.txt").write_text("".join(f"i{row}\n" for row in range(len(x))))
    return (f"{name}.npy", "--ids", f"{name}.txt")


def test_the_command_gives_the_hint_and_the_warning(semtok: Semtok, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path)
    assert "hint: " in semtok("fit", *vectors, "-o", "t", "--codebook-size", 18).stdout
    few = ("--quantizer", "rq", "--levels", 1, "--codebook-size", 4, "--collisions", "suffix")
    for command in (("fit", *vectors, "-o", "few"), ("encode", *vectors)):
        done = semtok(*command, *few, "--quiet")
        assert (done.code, done.stdout) == (0, "")
        assert done.stderr.startswith("warning: 100.0% of items shared all their codes")
        assert done.stderr.count("\n") == 1
    done = semtok("encode", *vectors, "--quiet", "--force", "--codebook-size", 18)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


def test_counters_end_at_their_totals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semtok.console._PLAIN_EVERY", 0.0)
    with Console() as console:
        console("reading", 0, 1)
        console("reading", 1500, 0)
        console("reading", 3000, 0)
        console("reading", 3000, 3000)
        console("reading", 3000, 3000)
        console("embedding", 0, 1)
        console("embedding", 1500, 3000)
        console("embedding", 3000, 3000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines if ": " in line and " s" not in line] == [
        "1,500",
        "3,000",
        "1,500 of 3,000",
    ]
    assert sum(line.endswith(" s") for line in lines) == 2


def oracle_words(texts: list[str], groups: list[list[int]], parents: list[list[int]]) -> list[str]:
    """What names each group, in plain Python."""
    has = [set(words_of(text)) for text in texts]

    def score(word: str, group: list[int], whole: list[int]) -> float:
        p = sum(word in has[row] for row in group) / len(group)
        q = sum(word in has[row] for row in whole) / len(whole)
        value = p * math.log(p / q)
        return value if value > 1e-9 else 0.0

    named = []
    for group, parent in zip(groups, parents, strict=True):
        words = sorted({word for row in group for word in has[row]})
        words = [word for word in words if sum(word in has[row] for row in group) >= 2]
        ranked = sorted(
            (
                (0 if score(word, group, parent) > 0 else 1),
                -(score(word, group, parent) or score(word, group, list(range(len(texts))))),
                word,
            )
            for word in words
        )
        kept = [word for _, value, word in ranked if value < 0][:3]
        named.append(" \N{MIDDLE DOT} ".join(kept))
    return named


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["red", "soap", "nail", "oil", "甲油", "x9"]), max_size=4).map(
            " ".join
        ),
        min_size=1,
        max_size=14,
    ),
    data=st.data(),
)
def test_clusters_are_named_by_the_words_that_tell_them_apart(
    texts: list[str], data: st.DataObject
) -> None:
    rest = range(1, len(texts))
    first = sorted({0, *data.draw(st.sets(st.sampled_from(rest)))}) if rest else [0]
    second = sorted({*first, *data.draw(st.sets(st.sampled_from(rest)))}) if rest else [0]
    levels = [np.array(first), np.array(second)]
    named = typical_words(texts, levels)
    above = [list(range(len(texts)))]
    for level, words in zip(levels, named, strict=True):
        bounds = [*level.tolist(), len(texts)]
        groups = [list(range(a, b)) for a, b in pairwise(bounds)]
        parents = [next(parent for parent in above if group[0] in parent) for group in groups]
        assert words == oracle_words(texts, groups, parents)
        above = groups


def test_words_are_letters_or_pairs_of_characters() -> None:
    assert list(words_of("OPI Nail-Polish 15 ml, C")) == ["opi", "nail", "polish", "15", "ml"]
    assert list(words_of("红色指甲油 X壳")) == ["红色", "色指", "指甲", "甲油", "壳"]


def test_tables_are_compared_by_the_numbers_of_their_health(semtok: Semtok, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path)
    assert semtok("fit", *vectors, "-o", "tree", "--codebook-size", 18).code == 0
    small = ("--quantizer", "pq", "--levels", 2, "--codebook-size", 32)
    assert semtok("fit", *vectors, "-o", "pq", *small).code == 0
    assert semtok("encode", *vectors, "--tokenizer", "pq", "-o", "pq.csv").code == 0
    done = semtok("compare", "tree", "pq", "pq.csv", "--json")
    entries = json.loads(done.stdout)
    for entry, name in zip(entries, ("tree", "pq", "pq.csv"), strict=True):
        shown = json.loads(semtok("inspect", name, "--json").stdout)
        assert (entry["name"], entry["health"]) == (name, shown)
    rows = comparison_rows(compared([tmp_path / "tree", tmp_path / "pq", tmp_path / "pq.csv"]))
    cells = {row[0]: row[1:] for row in rows}
    assert cells["items"] == ["300"] * 3
    assert cells["codebook sizes"] == ["18", "32", "32"]
    assert cells["levels"] == ["3", "2", "2"]
    assert cells["reconstruction error"][0] == "0"
    assert cells["reconstruction error"][2] == ""

    done = semtok("compare", "tree", "pq", "pq.csv", "--vectors", *vectors, "--page", "c.html")
    assert done.code == 0, done.stderr
    for name, space in (("tree", "prefix"), ("pq", "hamming")):
        codes = load_tokenizer(tmp_path / name).semantic_ids.codes
        assert f"{neighbour_overlap(X, codes, space=space):.2%}" in done.stdout
    page = (tmp_path / "c.html").read_text()
    assert page.count('<p class="verdict good">') == 3
    assert "neighbour agreement" in page
    assert "://" not in page

    twin = tmp_path / "other"
    twin.mkdir()
    SemanticIds.read(tmp_path / "pq.csv").write(twin / "pq.csv")
    names = [entry.name for entry in compared([tmp_path / "pq.csv", twin / "pq.csv"])]
    assert names == [str(tmp_path / "pq.csv"), str(twin / "pq.csv")]
    with pytest.raises(CatalogError, match="has item 'i299', which --vectors lacks"):
        compared([tmp_path / "pq"], item_ids=[f"i{row}" for row in range(299)], vectors=X[:299])
    few = replace(load_tokenizer(tmp_path / "pq").semantic_ids.take(["i0"]))
    few.write(tmp_path / "few.jsonl")
    done = semtok("compare", "pq", "few.jsonl", "--vectors", *vectors)
    assert "The numbers of items differ" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("compare", 2, "Missing argument"),
        ("compare absent", 1, "not a semtok folder"),
        ("compare codes.jsonl --ids x.txt", 2, "needs --vectors"),
        ("compare codes.jsonl --force", 2, "needs --page"),
        ("compare codes.jsonl --page x.txt", 1, "must end in .html"),
        ("compare codes.jsonl --page kept.html", 1, "exists already; --force replaces it"),
        ("compare codes.jsonl --vectors x.npy", 2, "is needed: the rows of x.npy have no ids"),
    ],
)
def test_comparisons_refuse_what_they_cannot_do(
    semtok: Semtok, tmp_path: Path, arguments: str, code: int, words: str
) -> None:
    write_vectors(tmp_path)
    table([[0], [1]], (2,)).write(tmp_path / "codes.jsonl")
    (tmp_path / "kept.html").write_text("kept")
    done = semtok(*arguments.split())
    assert (done.code, done.stdout) == (code, "")
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert (tmp_path / "kept.html").read_text() == "kept"
