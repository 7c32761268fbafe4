"""Collisions are resolved as plain loops over all rows and all paths resolve them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok import Quantizer, SemanticIds, resolve_collisions
from semtok.code_numbers import number_rows, sorted_rows

Path = tuple[int, ...]


class Sums(Quantizer):
    """Codes stand for the sum of one vector a level."""

    dim = 2

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        generator = np.random.default_rng(seed)
        # Whole numbers, so that some codes are equally near.
        self._tables = [generator.integers(-2, 3, size=(size, 2)) for size in sizes]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return tuple(map(len, self._tables))

    @property
    def num_levels(self) -> int:
        return len(self._tables)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        parts = [table[code] for table, code in zip(self._tables, codes.T, strict=False)]
        return np.sum(parts, axis=0).astype(np.float32)


def moved_slowly(
    path: Path, free: set[Path], sizes: Sequence[int], quantizer: Sums | None, x: np.ndarray
) -> Path:
    """The nearest free path below the deepest prefix of a path that has one."""

    def is_free(prefix: Path) -> bool:
        return any(candidate[: len(prefix)] == prefix for candidate in free)

    def gap(prefix: Path) -> float:
        if quantizer is None:
            return 0.0
        return float(((quantizer.decode(np.array([prefix]))[0].astype(float) - x) ** 2).sum())

    prefix = next(path[:level] for level in range(len(path) - 1, -1, -1) if is_free(path[:level]))
    while len(prefix) < len(path):
        below = [(*prefix, code) for code in range(sizes[len(prefix)])]
        prefix = min(filter(is_free, below), key=gap)
    return prefix


def resolved_slowly(
    codes: Sequence[Path],
    taken: set[Path],
    sizes: Sequence[int],
    policy: str,
    quantizer: Sums | None,
    x: np.ndarray,
) -> list[Path]:
    """Both policies: rows that keep their codes first, then the others, in order."""
    free = set(itertools.product(*map(range, sizes))) - taken
    result: dict[int, Path] = {}
    for row, path in enumerate(codes):
        if path in free:
            free.remove(path)
            result[row] = path
    for row, path in enumerate(codes):
        if row in result:
            continue
        if policy == "suffix":
            result[row] = min(candidate for candidate in free if candidate[:-1] == path[:-1])
        else:
            result[row] = moved_slowly(path, free, sizes, quantizer, x[row])
        free.remove(result[row])
    return [result[row] for row in range(len(codes))]


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Path], list[Path]]:
    """Codebook sizes, codes that are taken, and codes of new rows: all of them find room."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    # Skewed, so that some prefixes have more rows than codes.
    path = st.tuples(*(st.integers(0, size - 1) | st.just(0) for size in sizes))
    room = int(np.prod(sizes))
    taken = draw(st.lists(path, max_size=min(room - 1, 20), unique=True))
    codes = draw(st.lists(path, min_size=1, max_size=min(room - len(taken), 40)))
    return sizes, taken, codes


def table(taken: list[Path], sizes: tuple[int, ...]) -> SemanticIds | None:
    if not taken:
        return None
    names = [f"t{row}" for row in range(len(taken))]
    return SemanticIds(codes=np.array(taken), codebook_sizes=sizes, item_ids=names)


@settings(max_examples=200, deadline=None)
@given(case=tables(), seed=st.integers(0, 1000), has_quantizer=st.booleans())
def test_reassign_is_that_of_plain_loops(
    case: tuple[tuple[int, ...], list[Path], list[Path]], seed: int, has_quantizer: bool
) -> None:
    sizes, taken, codes = case
    x = np.random.default_rng(seed).integers(-4, 5, size=(len(codes), 2)).astype(np.float32)
    quantizer = Sums(sizes, seed) if has_quantizer else None
    resolved, _, collisions = resolve_collisions(
        np.array(codes),
        sizes,
        policy="reassign",
        assigned=table(taken, sizes),
        quantizer=quantizer,
        x=x if has_quantizer else None,
    )
    expected = resolved_slowly(codes, set(taken), sizes, "reassign", quantizer, x)
    assert list(map(tuple, resolved.tolist())) == expected
    assert collisions.num_moved == sum(a != b for a, b in zip(codes, expected, strict=True))


@settings(max_examples=200, deadline=None)
@given(case=tables(), suffixes=st.data())
def test_suffix_is_that_of_plain_loops(
    case: tuple[tuple[int, ...], list[Path], list[Path]], suffixes: st.DataObject
) -> None:
    sizes, taken, codes = case
    size = len(codes) + 3
    numbers = suffixes.draw(
        st.lists(st.integers(0, size - 1), min_size=len(taken), max_size=len(taken))
    )
    suffixed = [(*path, number) for path, number in zip(taken, numbers, strict=True)]
    assigned = table(suffixed, (*sizes, size))
    resolved, resolved_sizes, _ = resolve_collisions(
        np.array(codes), sizes, policy="suffix", assigned=assigned
    )
    rows = [(*path, 0) for path in codes]
    x = np.zeros((len(rows), 2))
    expected = resolved_slowly(rows, set(suffixed), resolved_sizes, "suffix", None, x)
    assert list(map(tuple, resolved.tolist())) == expected


def test_the_first_row_without_a_suffix_is_named() -> None:
    assigned = table([(1, 0), (1, 1), (2, 0), (2, 1)], (3, 2))
    with pytest.raises(ValueError, match=r"got \[2\] with all 2 codes of the suffix taken"):
        resolve_collisions(np.array([[0], [2], [1]]), (3,), policy="suffix", assigned=assigned)


def test_levels_that_no_number_holds_are_resolved_as_well() -> None:
    sizes = (2**20,) * 5  # 100 bits
    codes = np.array([[2**20 - 1] * 5, [7] * 5, [2**20 - 1] * 5, [7] * 5, [7] * 5])
    resolved, _, collisions = resolve_collisions(codes, sizes, policy="reassign")
    assert collisions.num_moved == 3
    assert resolved[:2].tolist() == codes[:2].tolist()
    assert resolved[2:].tolist() == [[*[2**20 - 1] * 4, 0], [7, 7, 7, 7, 0], [7, 7, 7, 7, 1]]
    suffixed, _, _ = resolve_collisions(codes, sizes, policy="suffix")
    assert suffixed[:, -1].tolist() == [0, 0, 1, 1, 2]


def test_the_caller_keeps_its_codes() -> None:
    codes = np.array([[0, 1], [0, 1], [0, 1]])
    for policy in ("suffix", "reassign", "allow"):
        resolve_collisions(codes, (3, 3), policy=policy)
    assert codes.tolist() == [[0, 1], [0, 1], [0, 1]]


def test_a_table_with_collisions_keeps_them() -> None:
    assigned = SemanticIds(
        codes=np.array([[0, 0], [0, 0], [0, 1]]),
        codebook_sizes=(2, 3),
        item_ids=list("abc"),
        allow_collisions=True,
    )
    codes = np.array([[0, 0], [1, 2], [1, 2], [1, 2]])
    resolved, _, _ = resolve_collisions(codes, (2, 3), policy="reassign", assigned=assigned)
    assert resolved.tolist() == [[0, 2], [1, 2], [1, 0], [1, 1]]


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 3) | st.integers(0, 2**62)),
    is_wide=st.booleans(),
)
def test_rows_are_sorted_with_equal_ones_in_order(numbers: list[int], is_wide: bool) -> None:
    values = np.array([2**62 if is_wide else 5, *numbers], dtype=np.int64)
    expected = sorted(range(len(values)), key=values.tolist().__getitem__)
    assert sorted_rows(values.copy()).tolist() == expected


def test_tables_are_numbered_as_one() -> None:
    codes = np.random.default_rng(0).integers(0, 9, size=(50, 3))
    parts = number_rows(codes[:20], codes[20:20], codes[20:])
    assert parts.tolist() == number_rows(codes).tolist()
