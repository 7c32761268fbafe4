"""The code table: which item has which codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from semtok.catalog import CatalogError
from semtok.code_files import read_codes, write_codes


@dataclass(frozen=True, kw_only=True, eq=False)
class SemanticIds:
    """The semantic ID of every item: row i of `codes` is that of item i.

    Attributes:
        codes: Each code at level l lies in [0, codebook_sizes[l]).
        codebook_sizes: Codes to choose from at each level, a suffix level included.
        item_ids: The items, no two equal.
        allow_collisions: Whether two items may have the same codes.
    """

    codes: Int64[np.ndarray, "items levels"]
    codebook_sizes: tuple[int, ...]
    item_ids: list[str]
    allow_collisions: bool = False

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.codebook_sizes):
            raise ValueError(
                f"codes must have one level a codebook size ({len(self.codebook_sizes)}), "
                f"got the shape {list(self.codes.shape)}"
            )
        if self.num_levels == 0 or min(self.codebook_sizes) < 1:
            raise ValueError(f"codebook_sizes must be positive, got {self.codebook_sizes}")
        if len(self.item_ids) != len(self.codes):
            raise ValueError(
                f"item_ids must be as many as codes ({len(self.codes)}), got {len(self.item_ids)}"
            )
        if len(self._row_of_item) != len(self.item_ids):
            raise ValueError("item_ids must be unique, got some twice")
        outside = ((self.codes < 0) | (self.codes >= np.array(self.codebook_sizes))).any(axis=1)
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"codes must be within the codebook sizes {self.codebook_sizes}, "
                f"got {self.codes[row].tolist()} for item {self.item_ids[row]!r}"
            )
        if not self.allow_collisions:
            _, first = np.unique(number_rows(self.codes), return_index=True)
            if len(first) != len(self.codes):
                row = int(np.setdiff1d(np.arange(len(self.codes)), first)[0])
                raise ValueError(
                    f"codes must be unique, got {self.codes[row].tolist()} for item "
                    f"{self.item_ids[row]!r} and another"
                )

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def num_levels(self) -> int:
        """Codes an item."""
        return len(self.codebook_sizes)

    @cached_property
    def depths(self) -> Int64[np.ndarray, " items"]:
        """How many codes single each item out, all of them if it shares them with another.

        For hierarchical k-means as fitted, that is the length of its path before padding.
        """
        depths = np.full(len(self), self.num_levels)
        for level in range(self.num_levels, 0, -1):
            _, group, counts = np.unique(
                number_rows(self.codes[:, :level]), return_inverse=True, return_counts=True
            )
            depths[counts[group.reshape(-1)] == 1] = level
        return depths

    def row(self, item_id: str) -> int:
        """The row of an item.

        Raises:
            ValueError: If there is no such item.
        """
        if item_id not in self._row_of_item:
            raise ValueError(f"item_id must be one of the {len(self)} items, got {item_id!r}")
        return self._row_of_item[item_id]

    def has(self, item_id: str) -> bool:
        """Whether an item is in the table."""
        return item_id in self._row_of_item

    def rows(self, codes: Int64[np.ndarray, "queries levels"]) -> Int64[np.ndarray, " queries"]:
        """The row that each sequence of codes stands for, the first if several, -1 if none."""
        rows = (self._row_of_codes.get(tuple(path), -1) for path in codes.tolist())
        return np.fromiter(rows, dtype=np.int64, count=len(codes))

    def groups(self, num_levels: int) -> dict[tuple[int, ...], list[int]]:
        """The rows below each prefix of `num_levels` codes, prefixes in ascending order.

        Raises:
            ValueError: If `num_levels` is not within [0, self.num_levels].
        """
        if not 0 <= num_levels <= self.num_levels:
            raise ValueError(f"num_levels must be within [0, {self.num_levels}], got {num_levels}")
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, path in enumerate(self.codes[:, :num_levels].tolist()):
            groups.setdefault(tuple(path), []).append(row)
        return dict(sorted(groups.items()))

    def take(self, item_ids: Sequence[str]) -> SemanticIds:
        """The semantic IDs of some items, in the order of `item_ids`.

        Raises:
            ValueError: If there is no such item, or one is named twice.
        """
        rows = [self.row(item_id) for item_id in item_ids]
        return replace(self, codes=self.codes[rows], item_ids=list(item_ids))

    def write(self, path: str | Path) -> None:
        """Writes one line or row an item, in order; the file replaces an older one in one step.

        Args:
            path: A .jsonl or .parquet file, with `item_id` and the list `codes`, or a .csv file
                with a column a level, `code_1` and so on; .jsonl and .csv also with .gz after it.

        Raises:
            ValueError: If the suffix is another one.
        """
        write_codes(path, self.item_ids, self.codes)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        codebook_sizes: Sequence[int] | None = None,
        allow_collisions: bool = False,
    ) -> SemanticIds:
        """Reads what `write` wrote.

        Args:
            path: The file, or "-" for JSONL from standard input.
            codebook_sizes: Codes at each level; None takes the highest code of each, plus one.
            allow_collisions: Whether two items may have the same codes.

        Raises:
            CatalogError: If the file is broken or its codes are not valid.
        """
        item_ids, codes = read_codes(path)
        sizes = codes.max(axis=0) + 1 if codebook_sizes is None else codebook_sizes
        try:
            return cls(
                codes=codes,
                codebook_sizes=tuple(int(size) for size in sizes),
                item_ids=item_ids,
                allow_collisions=allow_collisions,
            )
        except ValueError as error:
            raise CatalogError(f"{path}: {error}") from None

    @cached_property
    def _row_of_item(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def _row_of_codes(self) -> dict[tuple[int, ...], int]:
        rows: dict[tuple[int, ...], int] = {}
        for row, path in enumerate(self.codes.tolist()):
            rows.setdefault(tuple(path), row)
        return rows


def number_rows(codes: Int64[np.ndarray, "items levels"]) -> Int64[np.ndarray, " items"]:
    """One number a row of non-negative codes: equal for equal rows, and in their order."""
    numbers = np.zeros(len(codes), dtype=np.int64)
    if len(codes) == 0:
        return numbers
    highest = 0
    for column in codes.T:
        size = int(column.max()) + 1
        if (highest + 1) * size > 2**62:  # ranks are smaller than the numbers, and in their order
            numbers = np.unique(numbers, return_inverse=True)[1].reshape(-1)
            highest = int(numbers.max())
        numbers = numbers * size + column
        highest = (highest + 1) * size - 1
    return numbers
