"""The code table: which item has which codes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from semtok.catalog import Catalog, CatalogError, item_id_of
from semtok.code_files import codes_of, read_codes, write_codes
from semtok.code_numbers import number_rows
from semtok.collisions import Policy
from semtok.health import CodeHealth, measure_health
from semtok.phrases import counted, levels_of_codes
from semtok.progress import StageProgress
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.kinds import QUANTIZERS, quantizer_kind
from semtok.quantizers.rqvae_config import RqVaeConfig
from semtok.vectors import as_vectors


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SemanticIds:
    """The semantic ID of every item: row i of `codes` belongs to item i.

    The trie over the codes and the decoding that it constrains are in genrec, which takes the
    arrays: `genrec.Trie.build(torch.from_numpy(ids.codes), ids.codebook_sizes)`.

    Attributes:
        codes: The codes, [items, levels]. A code at level l lies in [0, codebook_sizes[l]).
        codebook_sizes: The number of codes at each level, a suffix level included.
        item_ids: The ids of the items, all different.
        allow_collisions: Whether two items may have the same codes.
    """

    codes: Int64[np.ndarray, "items levels"]
    codebook_sizes: tuple[int, ...]
    item_ids: list[str]
    allow_collisions: bool = False

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.codebook_sizes):
            raise ValueError(
                f"codes must have one level per codebook size ({len(self.codebook_sizes)}), "
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

    def __repr__(self) -> str:
        unique = "collisions allowed" if self.allow_collisions else "no two alike"
        levels = levels_of_codes(self.codebook_sizes)
        return f"{type(self).__name__}({counted(len(self), 'item')}, {levels}, {unique})"

    @staticmethod
    def fit(
        vectors: Float[np.ndarray, "items dim"],
        *,
        quantizer: str | RqVaeConfig | Quantizer = "hierarchical",
        item_ids: Sequence[str | int] | Int64[np.ndarray, " items"] | None = None,
        policy: Policy = "reassign",
        seed: int | None = None,
        trust: Collection[str] = (),
        progress: StageProgress | None = None,
        **options: Any,
    ) -> FittedSemanticIds:
        """Semantic IDs of vectors in one call: fit, encode, resolve collisions, measure.

        Args:
            vectors: Row i is the vector of item i. Do not change the array afterwards.
            quantizer: A name in `QUANTIZERS`; "package.module:Name" for a quantizer of another
                package; the configuration of an RQ-VAE; or a fitted quantizer, which then only
                encodes.
            item_ids: The ids of the items; None names them by their rows, "0", "1" and so on.
            policy: How collisions are resolved; see `semtok.collisions`.
            seed: The same seed and vectors give the same codes. None is 0, or the seed of the
                configuration.
            trust: The packages whose code may run, if the quantizer is of another package.
            progress: Called with the name of a stage, the work done and the total work.
            options: Options of the quantizer's `fit`, such as `num_levels` and `codebook_size`.

        Raises:
            ValueError: If the vectors are empty or not finite, the ids do not fit them, the name
                is unknown, or an option is out of range or has no effect.
            TypeError: If the quantizer has no such option.
        """
        # This imports every quantizer and faiss. Reading a table needs neither.
        from semtok.coding import fitted_codes, stage

        x = as_vectors(vectors)
        names = _item_names(item_ids, len(x))
        if isinstance(quantizer, str | RqVaeConfig):
            report_stage = stage(progress, "quantizing")
            fitted = _fitted_quantizer(x, quantizer, seed, trust, progress=report_stage, **options)
        elif seed is None and not options:
            fitted = quantizer
        else:
            wrong = "seed" if seed is not None else next(iter(options))
            raise ValueError(f"{wrong} has no effect: the quantizer is fitted already")
        coded = fitted_codes(fitted, x, policy=policy, progress=progress)
        table = SemanticIds(
            codes=coded.codes,
            codebook_sizes=coded.codebook_sizes,
            item_ids=names,
            allow_collisions=policy == "allow",
        )
        health = measure_health(
            table,
            collisions=coded.collisions,
            distortion=coded.distortion,
            neighbour_overlap=coded.neighbour_overlap,
        )
        return FittedSemanticIds(
            codes=table.codes,
            codebook_sizes=table.codebook_sizes,
            item_ids=names,
            allow_collisions=table.allow_collisions,
            quantizer=fitted,
            health=health,
        )

    @property
    def num_levels(self) -> int:
        """Codes per item."""
        return len(self.codebook_sizes)

    @cached_property
    def depths(self) -> Int64[np.ndarray, " items"]:
        """How many codes identify each item: all of them if another item has the same codes.

        For fitted hierarchical k-means, this is the length of the item's path before padding.
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
        """The row of each sequence of codes: the first of several rows; -1 if there is none."""
        rows = (self._row_of_codes.get(tuple(path), -1) for path in codes.tolist())
        return np.fromiter(rows, dtype=np.int64, count=len(codes))

    def groups(self, num_levels: int) -> dict[tuple[int, ...], list[int]]:
        """The rows below each prefix of `num_levels` codes; prefixes are in ascending order.

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
        return self.table_of(list(item_ids), self.codes[rows])

    def table_of(self, item_ids: list[str], codes: Int64[np.ndarray, "rows levels"]) -> SemanticIds:
        """A table of other items with the same codebooks and the same rule for collisions.

        Raises:
            ValueError: If the codes do not fit the codebooks, or ids or codes repeat.
        """
        return SemanticIds(
            codes=codes,
            codebook_sizes=self.codebook_sizes,
            item_ids=item_ids,
            allow_collisions=self.allow_collisions,
        )

    def write(self, path: str | Path) -> None:
        """Writes one line or row per item, in order. An older file is replaced in one step.

        Args:
            path: A .jsonl or .parquet file, with `item_id` and the list `codes`; or a .csv file
                with a column per level, `code_1` and so on. .jsonl and .csv may also end in .gz.

        Raises:
            ValueError: If the name ends otherwise.
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
        """Reads a file that `write` wrote.

        Args:
            path: The file, or "-" for JSONL from standard input.
            codebook_sizes: Codes at each level; None takes the highest code of each level plus 1.
            allow_collisions: Whether two items may have the same codes.

        Raises:
            CatalogError: If the file is broken or its codes are not valid.
        """
        item_ids, codes = read_codes(path)
        return cls._of_codes(item_ids, codes, codebook_sizes, allow_collisions, str(path))

    def to_frame(self, *, backend: Any = "polars") -> Any:
        """A data frame with the columns item_id, code_1, code_2 and so on, a row per item in order.

        Args:
            backend: "polars", "pandas", "pyarrow" or any other library whose tables narwhals makes;
                or a data frame: the result is then of the same library.

        Raises:
            ImportError: If the library is not installed.
            ValueError: If narwhals makes no tables of that kind.
        """
        from semtok.frames import new_frame

        columns: dict[str, Any] = {"item_id": self.item_ids}
        columns |= {f"code_{level}": codes for level, codes in enumerate(self.codes.T, start=1)}
        return new_frame(columns, backend)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        id_column: str = "item_id",
        codebook_sizes: Sequence[int] | None = None,
        allow_collisions: bool = False,
    ) -> SemanticIds:
        """Reads semantic IDs from a data frame, such as `to_frame` makes.

        Args:
            frame: A table of pandas, polars, pyarrow or any other library that narwhals knows, with
                the columns code_1, code_2 and so on, or one column `codes` of lists.
            id_column: The column that holds the item's id: strings, or whole numbers, as their
                digits.
            codebook_sizes: Codes at each level; None takes the highest code of each level plus 1.
            allow_collisions: Whether two items may have the same codes.

        Raises:
            CatalogError: If the frame lacks ids or codes, or they are not valid.
            TypeError: If `frame` is not a data frame.
        """
        catalog = Catalog.from_frame(frame, id_column=id_column)
        item_ids, codes = codes_of([catalog], "frame")
        return cls._of_codes(item_ids, codes, codebook_sizes, allow_collisions, "frame")

    @classmethod
    def _of_codes(
        cls,
        item_ids: list[str],
        codes: Int64[np.ndarray, "items levels"],
        codebook_sizes: Sequence[int] | None,
        allow_collisions: bool,
        place: str,
    ) -> SemanticIds:
        """A table of what was read; errors begin with `place`."""
        sizes = codes.max(axis=0) + 1 if codebook_sizes is None else codebook_sizes
        try:
            return cls(
                codes=codes,
                codebook_sizes=tuple(int(size) for size in sizes),
                item_ids=item_ids,
                allow_collisions=allow_collisions,
            )
        except ValueError as error:
            raise CatalogError(f"{place}: {error}") from None

    @cached_property
    def _row_of_item(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def _row_of_codes(self) -> dict[tuple[int, ...], int]:
        rows: dict[tuple[int, ...], int] = {}
        for row, path in enumerate(self.codes.tolist()):
            rows.setdefault(tuple(path), row)
        return rows


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedSemanticIds(SemanticIds):
    """The result of `SemanticIds.fit`: the table, its quantizer, and measures of its quality.

    Attributes:
        quantizer: Encodes other vectors. To resolve the collisions of these, use `Tokenizer`.
        health: Utilisation, collisions before they were resolved, distortion, neighbour overlap.
    """

    quantizer: Quantizer
    health: CodeHealth


def _item_names(
    item_ids: Sequence[str | int] | Int64[np.ndarray, " items"] | None, num_items: int
) -> list[str]:
    """The ids as strings, one per item; whole numbers become their digits."""
    if item_ids is None:
        return [str(row) for row in range(num_items)]
    values = item_ids.tolist() if isinstance(item_ids, np.ndarray) else item_ids
    if len(values) != num_items:
        raise ValueError(f"item_ids must be as many as vectors ({num_items}), got {len(values)}")
    return [
        item_id_of({"item_ids": value}, "item_ids", f"row {row}")
        for row, value in enumerate(values)
    ]


def _fitted_quantizer(
    x: Float[np.ndarray, "items dim"],
    quantizer: str | RqVaeConfig,
    seed: int | None,
    trust: Collection[str],
    **options: Any,
) -> Quantizer:
    """Fits the quantizer that a name or a configuration describes."""
    if isinstance(quantizer, RqVaeConfig):
        if seed is not None:
            raise ValueError("seed has no effect: RqVaeConfig has its own")
        fitted: Quantizer = QUANTIZERS["rqvae"].quantizer_class.fit(x, quantizer, **options)
        return fitted
    return quantizer_kind(quantizer, trust=trust).fit(x, seed=seed or 0, **options)
