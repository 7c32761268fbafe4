"""The code table: which item has which codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from semtok.catalog import CatalogError
from semtok.storage import replacing_file


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
            unique, first = np.unique(self.codes, axis=0, return_index=True)
            if len(unique) != len(self.codes):
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
                self.codes[:, :level], axis=0, return_inverse=True, return_counts=True
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
        found = (self._row_of_codes.get(tuple(path), -1) for path in codes.tolist())
        return np.fromiter(found, dtype=np.int64, count=len(codes))

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

    def write(self, path: str | Path) -> None:
        """Writes one line or row an item, in order, with `item_id` and `codes`.

        The file replaces an older one in a single step.

        Args:
            path: A .jsonl or .parquet file.

        Raises:
            ValueError: If the suffix is another one.
        """
        path = Path(path)
        if path.suffix == ".jsonl":
            with replacing_file(path) as beside, beside.open("w", encoding="utf-8") as file:
                for item_id, codes in zip(self.item_ids, self.codes.tolist(), strict=True):
                    line = {"item_id": item_id, "codes": codes}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        elif path.suffix == ".parquet":
            import polars as pl

            frame = pl.DataFrame(
                {"item_id": self.item_ids, "codes": self.codes.tolist()},
                schema={"item_id": pl.String, "codes": pl.List(pl.Int64)},
            )
            with replacing_file(path) as beside:
                frame.write_parquet(beside)
        else:
            raise ValueError(f"path must end in .jsonl or .parquet, got {path}")

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
            path: A .jsonl or .parquet file.
            codebook_sizes: Codes at each level; None takes the highest code of each, plus one.
            allow_collisions: Whether two items may have the same codes.

        Raises:
            CatalogError: If the file is broken or its codes are not valid.
        """
        from semtok.catalog import read_catalog

        catalog = read_catalog(path)
        values = catalog.fields.get("codes")
        if values is None:
            raise CatalogError(f"{path}: no column 'codes'")
        num_levels = len(values[0]) if isinstance(values[0], list) else 0
        for item_id, codes in zip(catalog.item_ids, values, strict=True):
            if (
                not isinstance(codes, list)
                or not all(type(code) is int and 0 <= code < 2**31 for code in codes)
                or len(codes) != num_levels
                or not codes
            ):
                raise CatalogError(
                    f"{path}: codes must be {num_levels or 'some'} non-negative integers, "
                    f"got {codes!r} for item {item_id!r}"
                )
        table = np.array(values, dtype=np.int64)
        sizes = table.max(axis=0) + 1 if codebook_sizes is None else codebook_sizes
        try:
            return cls(
                codes=table,
                codebook_sizes=tuple(int(size) for size in sizes),
                item_ids=catalog.item_ids,
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
