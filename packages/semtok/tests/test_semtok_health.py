from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from semtok.collisions import Collisions
from semtok.health import CodeHealth, measure_health
from semtok.neighbours import neighbour_overlap
from semtok.semantic_ids import SemanticIds


def make_ids(codes: list[list[int]], sizes: tuple[int, ...] = (4, 4)) -> SemanticIds:
    return SemanticIds(
        codes=np.array(codes),
        codebook_sizes=sizes,
        item_ids=[f"i{row}" for row in range(len(codes))],
        allow_collisions=True,
    )


def shown(health: CodeHealth) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(health.table())
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def expected_places(scores: list[int], num_places: int) -> list[Fraction]:
    """The chance of each score to be among the `num_places` largest, ties broken at random."""
    chances = []
    for score in scores:
        above = sum(other > score for other in scores)
        equal = scores.count(score)
        chances.append(min(max(Fraction(num_places - above, equal), Fraction(0)), Fraction(1)))
    return chances


def plain_overlap(
    points: list[list[int]], codes: list[list[int]], k: int, space: str, queries: list[int]
) -> float:
    k = min(k, len(points) - 1)
    total = Fraction(0)
    for q in queries:
        others = [i for i in range(len(points)) if i != q]
        nearness = [
            -sum((a - b) ** 2 for a, b in zip(points[q], points[i], strict=True)) for i in others
        ]
        closeness = []
        for i in others:
            same = [a == b for a, b in zip(codes[q], codes[i], strict=True)]
            prefix = len(list(itertools.takewhile(bool, same)))
            closeness.append(prefix if space == "prefix" else sum(same))
        pairs = zip(expected_places(nearness, k), expected_places(closeness, k), strict=True)
        total += sum((a * b for a, b in pairs), Fraction(0))
    return float(total / (k * len(queries)))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.integers(-3, 3), min_size=2, max_size=2),
            st.lists(st.integers(0, 2), min_size=3, max_size=3),
        ),
        min_size=2,
        max_size=14,
    ),
    k=st.integers(1, 12),
    space=st.sampled_from(["prefix", "hamming"]),
)
def test_neighbour_overlap_agrees_with_a_plain_loop(
    rows: list[tuple[list[int], list[int]]], k: int, space: Literal["prefix", "hamming"]
) -> None:
    points, codes = [list(row[0]) for row in rows], [list(row[1]) for row in rows]
    got = neighbour_overlap(
        np.array(points, dtype=np.float32), np.array(codes), num_neighbours=k, space=space
    )
    want = plain_overlap(points, codes, k, space, list(range(len(rows))))
    assert got == pytest.approx(want, abs=1e-9)


def test_neighbour_overlap_in_chunks_and_by_sample(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(-4, 5, size=(50, 2))
    codes = generator.integers(0, 3, size=(50, 2))
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    drawn = np.sort(np.random.default_rng(3).choice(50, size=20, replace=False)).tolist()
    monkeypatch.setattr("semtok.neighbours.CHUNK", 7)
    monkeypatch.setattr("semtok.neighbours.NUM_QUERIES", 6)
    got = neighbour_overlap(stored, codes, num_neighbours=5, sample=20, seed=3)
    assert got == pytest.approx(plain_overlap(x.tolist(), codes.tolist(), 5, "prefix", drawn))


def test_neighbour_overlap_is_one_for_perfect_codes_and_chance_for_none() -> None:
    x = np.repeat(np.eye(8, dtype=np.float32), 11, axis=0)  # 8 groups of 11 equal items
    groups = np.repeat(np.arange(8), 11)[:, None]
    assert neighbour_overlap(x, groups) == pytest.approx(1)
    assert neighbour_overlap(x, np.zeros_like(groups)) == pytest.approx(10 / 87)
    # Far from the origin and of one direction: rounding must not make a difference.
    assert neighbour_overlap(x * 1e-3 + 100, groups) == pytest.approx(1)
    assert neighbour_overlap(x[:3], np.zeros((3, 1), dtype=np.int64)) == pytest.approx(1)


def test_neighbour_overlap_ignores_the_order_of_items() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(300, 5)).astype(np.float32)
    x[100:] = x[generator.integers(100, size=200)]
    codes = generator.integers(0, 3, size=(300, 3))
    order = generator.permutation(300)
    overlap = neighbour_overlap(x, codes)
    assert overlap == pytest.approx(neighbour_overlap(x[order], codes[order]))
    assert 0 < overlap < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_neighbours": 0}, "num_neighbours must be at least 1, got 0"),
        ({"sample": 0}, "sample must be at least 1, got 0"),
    ],
)
def test_neighbour_overlap_refuses_options(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        neighbour_overlap(np.eye(3, dtype=np.float32), np.zeros((3, 1), dtype=int), **options)


def test_neighbour_overlap_refuses_what_is_no_pair_or_not_finite() -> None:
    codes = np.zeros((3, 1), dtype=np.int64)
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="at least two items, got 1"):
        neighbour_overlap(x[:1], codes[:1])
    with pytest.raises(ValueError, match=r"one row per item \(3\), got 2"):
        neighbour_overlap(x[:2], codes)
    with pytest.raises(ValueError, match="must be finite"):
        neighbour_overlap(np.full_like(x, np.nan), codes)


def plain_shared(
    codes: list[list[int]], sequences: list[list[int]], level: int
) -> tuple[float, float]:
    """The share of pairs with a common prefix, over real pairs and over all couplings of them."""
    pairs = [(a, b) for row in sequences for a, b in itertools.pairwise(row) if a != b]
    couplings = [(a, b) for (a, _), (_, b) in itertools.product(pairs, pairs) if a != b]

    def share(of: list[tuple[int, int]]) -> float:
        return sum(codes[a][:level] == codes[b][:level] for a, b in of) / len(of)

    return share(pairs), share(couplings)


@settings(max_examples=60, deadline=None)
@given(
    codes=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=2, max_size=8),
    data=st.data(),
)
def test_shared_prefixes_agree_with_a_plain_loop(
    codes: list[list[int]], data: st.DataObject
) -> None:
    rows = st.lists(st.integers(0, len(codes) - 1), max_size=6)
    sequences = [*data.draw(st.lists(rows, max_size=5)), [0, 1]]
    health = measure_health(make_ids(codes), sequences=sequences)
    for number, level in enumerate(health.levels, start=1):
        want = plain_shared(codes, sequences, number)
        assert (level.shared_prefix, level.shared_by_chance) == pytest.approx(want)


def test_sequences_of_ids_and_of_rows_are_the_same() -> None:
    ids = make_ids([[0, 0], [0, 1], [1, 0], [1, 1]])
    by_id = measure_health(ids, sequences=[["i0", "i1"], ["i2", "i3", "i3", "i0"]])
    assert by_id == measure_health(ids, sequences=[[0, 1], [2, 3, 3, 0]])
    assert by_id.num_pairs == 3
    assert by_id.levels[0].shared_prefix == pytest.approx(2 / 3)
    assert by_id.levels[1].shared_prefix == 0


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        ([["i0", "absent"]], "got 'absent'"),
        ([[0, 4]], r"rows within \[0, 4\), got 4"),
        ([[-1, 0]], r"rows within \[0, 4\), got -1"),
        ([[0], [1], []], "two different items in a row, got none"),
        ([[0, 0]], "two different items in a row, got none"),
    ],
)
def test_sequences_are_refused(sequences: list[list[int]], words: str) -> None:
    ids = make_ids([[0, 0], [0, 1], [1, 0], [1, 1]])
    with pytest.raises(ValueError, match=words):
        measure_health(ids, sequences=sequences)


def test_an_overlap_that_is_no_share_is_refused() -> None:
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"neighbour_overlap must be within \[0, 1\], got"):
            measure_health(make_ids([[0, 0]]), neighbour_overlap=wrong)


def test_the_table_says_all_that_was_measured() -> None:
    ids = make_ids([[0, 0], [0, 1], [1, 0], [1, 1]])
    plain = shown(measure_health(ids))
    assert "collisions: 0.00% of items, largest bucket 1\ncodes that" in plain
    for absent in ("distortion", "neighbour", "by chance", "once resolved"):
        assert absent not in plain
    full = measure_health(
        ids,
        collisions=Collisions(rate=0.5, largest_bucket=2),
        distortion=[0.25],
        neighbour_overlap=0.125,
        sequences=[[0, 1, 2]],
    )
    text = shown(full)
    for part in (
        "collisions: 50.00% of items, largest bucket 2; once resolved 0.00%, largest bucket 1",
        "neighbour overlap at 10: 12.50% (by chance 100.00%)",
        "of 2 pairs of consecutive items",
        "next shares",
        "0.25",
    ):
        assert part in text
    json_text = json.loads(json.dumps(full.to_dict()))
    assert json_text["neighbour_overlap"] == 0.125
    assert json_text["levels"][0]["shared_prefix"] == 0.5
    assert json_text["levels"][1]["distortion"] is None
    assert (json_text["collision_rate"], json_text["resolved_collision_rate"]) == (0.5, 0)
