from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok import (
    CatalogError,
    Quantizer,
    SemanticIds,
    measure_collisions,
    measure_health,
    resolve_collisions,
)
from semtok.code_numbers import number_rows

CODES = np.array([[0, 1], [0, 2], [3, 0]])


def table(codes: np.ndarray = CODES, **options: object) -> SemanticIds:
    names = [f"i{row}" for row in range(len(codes))]
    return SemanticIds(codes=codes, codebook_sizes=(4, 4), item_ids=names, **options)


def test_lookups_go_both_ways() -> None:
    ids = table()
    assert (len(ids), ids.num_levels) == (3, 2)
    assert ids.row("i2") == 2
    assert (ids.has("i2"), ids.has("x")) == (True, False)
    assert ids.rows(np.array([[3, 0], [0, 1], [3, 3]])).tolist() == [2, 0, -1]
    assert ids.groups(1) == {(0,): [0, 1], (3,): [2]}
    assert ids.groups(0) == {(): [0, 1, 2]}
    assert ids.depths.tolist() == [2, 2, 1]
    with pytest.raises(ValueError, match="one of the 3 items, got 'x'"):
        ids.row("x")
    with pytest.raises(ValueError, match=r"num_levels must be within \[0, 2\], got 3"):
        ids.groups(3)


def test_a_table_checks_its_codes() -> None:
    with pytest.raises(ValueError, match=r"within the codebook sizes .* got \[4, 0\] for"):
        table(np.array([[4, 0]]))
    with pytest.raises(ValueError, match=r"got \[-1, 0\]"):
        table(np.array([[-1, 0]]))
    with pytest.raises(ValueError, match=r"must be unique, got \[0, 1\] for item 'i2' and another"):
        table(np.array([[0, 1], [2, 2], [0, 1]]))
    assert table(np.array([[0, 1], [0, 1]]), allow_collisions=True).depths.tolist() == [2, 2]
    with pytest.raises(ValueError, match="one level per codebook size"):
        table(np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="item_ids must be as many as codes"):
        SemanticIds(codes=CODES, codebook_sizes=(4, 4), item_ids=["a"])
    with pytest.raises(ValueError, match="item_ids must be unique"):
        SemanticIds(codes=CODES, codebook_sizes=(4, 4), item_ids=["a", "b", "a"])


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
def test_files_round_trip(tmp_path: Path, suffix: str) -> None:
    ids, name = table(), f"codes{suffix}"
    ids.write(tmp_path / name)
    once = (tmp_path / name).read_bytes()
    ids.write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == once
    read = SemanticIds.read(tmp_path / name, codebook_sizes=(4, 4))
    assert (read.codes.tolist(), read.item_ids) == (CODES.tolist(), ids.item_ids)
    assert SemanticIds.read(tmp_path / name).codebook_sizes == (4, 3)
    odd = ["a\rb", 'c,"d"', "e\nf\r"]
    SemanticIds(codes=CODES, codebook_sizes=(4, 4), item_ids=odd).write(tmp_path / name)
    assert SemanticIds.read(tmp_path / name).item_ids == odd
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_jsonl_holds_one_item_a_line(tmp_path: Path) -> None:
    table().write(tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"item_id": "i1", "codes": [0, 2]}
    table().write(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().splitlines()[:2] == ["item_id,code_1,code_2", "i0,0,1"]
    with pytest.raises(ValueError, match=r"path must end in one of .jsonl, .jsonl.gz, .csv"):
        table().write(tmp_path / "x.txt")


def test_items_are_taken_by_id() -> None:
    ids = table().take(["i2", "i0"])
    assert (ids.item_ids, ids.codes.tolist()) == (["i2", "i0"], [[3, 0], [0, 1]])
    with pytest.raises(ValueError, match="one of the 3 items, got 'x'"):
        table().take(["x"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"item_id": "b"}', "codes must be 2 integers within .* got None for item 'b'"),
        ('{"item_id": "b", "codes": [1]}', r"got \[1\]"),
        ('{"item_id": "b", "codes": [1, -1]}', r"within \[0, 16777215\], got \[1, -1\]"),
        ('{"item_id": "b", "codes": [1, true]}', "got .1, True."),
        ('{"item_id": "b", "codes": [1, 99999999999999999999]}', "integers within .* got .1, 9999"),
        ('{"item_id": "b", "codes": [0, 1]}', "must be unique"),
    ],
)
def test_broken_code_files_are_refused(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"item_id": "a", "codes": [0, 1]}\n' + line + "\n")
    with pytest.raises(CatalogError, match=words):
        SemanticIds.read(path)
    (tmp_path / "x.csv").write_text("item_id,code_1\na,one\n")
    with pytest.raises(CatalogError, match=r"integers within .* got \['one'\] for item 'a'"):
        SemanticIds.read(tmp_path / "x.csv")
    path.write_text('{"item_id": "a"}\n')
    with pytest.raises(CatalogError, match="no column 'codes'"):
        SemanticIds.read(path)


def test_collisions_are_counted_on_items() -> None:
    codes = np.array([[0, 1], [0, 1], [2, 2], [0, 1], [3, 3]])
    counted = measure_collisions(codes)
    assert (counted.rate, counted.largest_bucket) == (3 / 5, 3)
    assert measure_collisions(codes[:0]).rate == 0


def test_policies_by_example() -> None:
    codes = np.array([[0, 1], [0, 1], [0, 0], [0, 1]])
    suffixed, sizes, collisions = resolve_collisions(codes, (4, 3), policy="suffix")
    assert sizes == (4, 3, 6)
    assert suffixed.tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0], [0, 1, 2]]
    assert (collisions.rate, collisions.largest_bucket) == (3 / 4, 3)
    assert (collisions.policy, collisions.num_moved) == ("suffix", 2)
    moved, sizes, collisions = resolve_collisions(codes, (4, 3), policy="reassign")
    assert sizes == (4, 3)
    assert moved.tolist() == [[0, 1], [0, 2], [0, 0], [1, 0]]  # below 0 all three are taken
    assert collisions.outcome == "collisions resolved by reassign: 2 items moved to a free code"
    same, _, collisions = resolve_collisions(codes, (4, 3), policy="allow")
    assert same.tolist() == codes.tolist()
    assert (collisions.policy, collisions.num_moved, collisions.rate) == ("allow", 0, 3 / 4)
    # A suffix grows with the largest bucket, and leaves room for later items.
    assert resolve_collisions(codes[[0] * 5], (4, 3), policy="suffix")[1] == (4, 3, 10)
    with pytest.raises(ValueError, match="quantizer and x must be given together"):
        resolve_collisions(codes, (4, 3), policy="reassign", x=np.ones((4, 2)))


class Lattice(Quantizer):
    """Codes stand for the sum of one vector a level."""

    num_levels, dim, codebook_sizes = 2, 2, (3, 4)

    def __init__(self, tables: list[np.ndarray]) -> None:
        self.tables = tables

    def decode(self, codes: np.ndarray) -> np.ndarray:
        parts = [table[code] for table, code in zip(self.tables, codes.T, strict=False)]
        return np.sum(parts, axis=0).astype(np.float32)


def reassigned_slowly(
    codes: list[tuple[int, int]], taken: set[tuple[int, int]], quantizer: Lattice, x: np.ndarray
) -> list[tuple[int, int]]:
    """The policy in plain loops: losers after all keepers, in order."""
    result: dict[int, tuple[int, int]] = {}
    taken = set(taken)
    for row, path in enumerate(codes):
        if path not in taken:
            taken.add(path)
            result[row] = path
    for row, (first, _) in enumerate(codes):
        if row in result:
            continue

        def gap(path: tuple[int, ...], row: int = row) -> float:
            stands_for = quantizer.decode(np.array([path]))[0].astype(float)
            return float(((stands_for - x[row]) ** 2).sum())

        def free(prefix: int) -> list[tuple[int, int]]:
            return [(prefix, code) for code in range(4) if (prefix, code) not in taken]

        if not free(first):
            first = min((code for code in range(3) if free(code)), key=lambda code: gap((code,)))
        result[row] = min(free(first), key=gap)
        taken.add(result[row])
    return [result[row] for row in range(len(codes))]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_reassign_takes_the_nearest_free_code(data: st.DataObject, seed: int) -> None:
    paths = st.tuples(st.integers(0, 2), st.integers(0, 3))
    old = data.draw(st.lists(paths, max_size=4, unique=True))
    new = data.draw(st.lists(paths, min_size=1, max_size=12 - len(old)))
    rng = np.random.default_rng(seed)
    quantizer = Lattice([rng.normal(size=(3, 2)), rng.normal(size=(4, 2))])
    x = rng.normal(size=(len(new), 2)).astype(np.float32)
    known_ids = SemanticIds(
        codes=np.array(old, dtype=np.int64).reshape(-1, 2),
        codebook_sizes=(3, 4),
        item_ids=[f"o{row}" for row in range(len(old))],
    )
    resolved, _, collisions = resolve_collisions(
        np.array(new), (3, 4), policy="reassign", assigned=known_ids, quantizer=quantizer, x=x
    )
    expected = reassigned_slowly(new, set(old), quantizer, x)
    assert [tuple(path) for path in resolved.tolist()] == expected
    assert collisions.num_moved == sum(a != b for a, b in zip(new, expected, strict=True))


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 2), min_size=3, max_size=3), max_size=9
    )
)
def test_rows_are_numbered_alike_and_in_their_order(rows: list[list[int]]) -> None:
    codes = np.array(rows, dtype=np.int64).reshape(-1, 3)
    numbers = number_rows(codes).tolist()
    for a, left in zip(numbers, rows, strict=True):
        for b, right in zip(numbers, rows, strict=True):
            assert (a < b) == (left < right)


@settings(max_examples=80, deadline=None)
@given(
    old=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=10),
    new=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=10),
    policy=st.sampled_from(["suffix", "reassign"]),
)
def test_codes_given_never_move_and_new_ones_never_collide(
    old: list[tuple[int, int]], new: list[tuple[int, int]], policy: str
) -> None:
    sizes = (9, 9)
    first, resolved, _ = resolve_collisions(np.array(old), sizes, policy=policy)
    known_ids = SemanticIds(
        codes=first, codebook_sizes=resolved, item_ids=[f"o{row}" for row in range(len(old))]
    )
    for row, codes in enumerate(old):
        if codes not in old[:row]:
            assert first[row, :2].tolist() == list(codes)
    try:
        second, same, _ = resolve_collisions(
            np.array(new), sizes, policy=policy, assigned=known_ids
        )
    except ValueError as refusal:
        full = str(refusal)
    else:
        full = ""
        assert same == resolved
        both = np.concatenate([first, second])
        assert len(np.unique(both, axis=0)) == len(both)
        assert (both < np.array(resolved)).all()
        kept = {tuple(path) for path in first.tolist()}
        for row, codes in enumerate(new):
            path = codes if policy == "reassign" else (*codes, 0)
            if path not in kept and codes not in new[:row]:
                assert second[row].tolist() == list(path)
    largest = max((old + new).count(codes) for codes in new)
    assert (full != "") == (policy == "suffix" and largest > resolved[-1])
    assert not full or f"all {resolved[-1]} codes of the suffix taken" in full


def test_no_free_code_is_refused() -> None:
    codes = np.zeros((5, 2), dtype=np.int64)
    with pytest.raises(ValueError, match=r"got all of \(2, 2\) taken: fit with a larger codebook"):
        resolve_collisions(codes, (2, 2), policy="reassign")


def test_health_by_hand() -> None:
    ids = SemanticIds(
        codes=np.array([[0, 0], [0, 1], [1, 0], [2, 0]]),
        codebook_sizes=(4, 2),
        item_ids=list("abcd"),
    )
    health = measure_health(ids, distortion=[0.5])
    first, second = health.levels
    assert (first.used, first.utilisation, first.entropy) == (3, 3 / 4, 1.5)
    assert first.perplexity == pytest.approx(2**1.5)
    assert (first.distortion, second.distortion) == (0.5, None)
    assert second.entropy == pytest.approx(-(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)))
    assert (health.collision_rate, health.largest_bucket, health.depths) == (0, 1, (2, 2))
    assert json.loads(json.dumps(health.to_dict()))["levels"][0]["used"] == 3
    assert len(health.table().rows) == 2
