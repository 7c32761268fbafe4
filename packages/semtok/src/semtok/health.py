"""The quality of codes: how much of each codebook is used, how evenly, and what collides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from semtok.code_numbers import number_rows
from semtok.collisions import Collisions, measure_collisions
from semtok.phrases import counted, levels_of_codes

if TYPE_CHECKING:
    from rich.table import Table

    from semtok.semantic_ids import SemanticIds


@dataclass(frozen=True, kw_only=True)
class LevelHealth:
    """One level of the codes. Padding counts as code 0.

    Attributes:
        codebook_size: The number of codes of this level.
        used: How many of these codes at least one item has.
        utilisation: `used` as a share of `codebook_size`.
        entropy: The entropy of the distribution of codes over items, in bits.
        perplexity: 2 to the power of the entropy: that many codes, all used equally often, would
            have the same entropy.
        distortion: Mean squared distance to what the codes up to this level decode to, if measured.
        shared_prefix: Of the pairs of consecutive items in sequences, the share that have the same
            codes up to this level; None without sequences.
        shared_by_chance: The same share after shuffling the second items of all pairs. The ratio of
            the two shows how much the codes reflect the sequences.
    """

    codebook_size: int
    used: int
    utilisation: float
    entropy: float
    perplexity: float
    distortion: float | None = None
    shared_prefix: float | None = None
    shared_by_chance: float | None = None


@dataclass(frozen=True, kw_only=True)
class CodeHealth:
    """The health of a code table.

    Attributes:
        num_items: Items in the table.
        levels: Each level's health.
        collision_rate: The share of items that share all codes with another, before collisions
            were resolved where that is known.
        largest_bucket: The largest number of items that share all codes, likewise.
        resolved_collision_rate: The share of such items in the table itself.
        resolved_largest_bucket: The largest number of such items in the table itself.
        depths: How many items are identified by their first 1, 2, ... codes and by no fewer; for
            hierarchical k-means, the lengths of paths before padding.
        neighbour_overlap: The share of an item's 10 nearest neighbours that are also its nearest
            by codes, if measured; see `semtok.neighbour_overlap`.
        num_pairs: The number of pairs of consecutive items behind `shared_prefix`.
    """

    num_items: int
    levels: tuple[LevelHealth, ...]
    collision_rate: float
    largest_bucket: int
    resolved_collision_rate: float
    resolved_largest_bucket: int
    depths: tuple[int, ...]
    neighbour_overlap: float | None = None
    num_pairs: int | None = None

    def __repr__(self) -> str:
        levels = levels_of_codes([level.codebook_size for level in self.levels])
        used = ", ".join(f"{level.utilisation:.0%}" for level in self.levels)
        collisions = f"{self.collision_rate:.2%}, once resolved {self.resolved_collision_rate:.2%}"
        items = counted(self.num_items, "item")
        return f"CodeHealth({items}, {levels}, used {used}, collisions {collisions})"

    def to_dict(self) -> dict[str, Any]:
        """The health as plain JSON types."""
        return asdict(self)

    def table(self) -> Table:
        """A rich table: one row per level, and the other measures as its caption."""
        from rich.table import Table

        table = Table(
            title=f"{counted(self.num_items, 'item')}, {counted(len(self.levels), 'level')}",
            caption="\n".join(self._caption()),
            caption_justify="left",
        )
        columns = {
            "level": [str(number) for number in range(1, len(self.levels) + 1)],
            "codes": [f"{level.codebook_size:,}" for level in self.levels],
            "used": [f"{level.used:,}" for level in self.levels],
            "utilisation": [f"{level.utilisation:.1%}" for level in self.levels],
            "perplexity": [f"{level.perplexity:.1f}" for level in self.levels],
            "entropy": [f"{level.entropy:.2f} bit" for level in self.levels],
        }
        if any(level.distortion is not None for level in self.levels):
            columns["distortion"] = [_cell(level.distortion, ".4g") for level in self.levels]
        if self.num_pairs is not None:
            columns["next shares"] = [_cell(level.shared_prefix, ".2%") for level in self.levels]
            columns["by chance"] = [_cell(level.shared_by_chance, ".2%") for level in self.levels]
        for name in columns:
            table.add_column(name, justify="right")
        for cells in zip(*columns.values(), strict=True):
            table.add_row(*cells)
        return table

    def _caption(self) -> list[str]:
        text = f"collisions: {self.collision_rate:.2%} of items, largest bucket "
        text += f"{self.largest_bucket:,}"
        before = (self.collision_rate, self.largest_bucket)
        if before != (self.resolved_collision_rate, self.resolved_largest_bucket):
            text += f"; once resolved {self.resolved_collision_rate:.2%}, largest bucket "
            text += f"{self.resolved_largest_bucket:,}"
        depths = ", ".join(f"{count:,} with {d}" for d, count in enumerate(self.depths, 1) if count)
        lines = [text, f"codes that identify an item: {depths}"]
        if self.neighbour_overlap is not None:
            lines.append(
                f"neighbour overlap at 10: {self.neighbour_overlap:.2%} "
                f"(by chance {chance_overlap(self.num_items):.2%})"
            )
        if self.num_pairs is not None:
            lines.append(
                f"next shares: of {self.num_pairs:,} pairs of consecutive items, the share with "
                "the same codes up to this level"
            )
        return lines


def measure_health(
    semantic_ids: SemanticIds,
    *,
    collisions: Collisions | None = None,
    distortion: Sequence[float] | None = None,
    neighbour_overlap: float | None = None,
    sequences: Sequence[Sequence[str | int]] | None = None,
) -> CodeHealth:
    """Measures a code table.

    Args:
        semantic_ids: The table.
        collisions: Counted before they were resolved; None counts the collisions of the table.
        distortion: The distortion after each level, as `quantizer.distortion` returns it. It may
            have fewer levels than the codes, as a suffix has no distortion.
        neighbour_overlap: As `semtok.neighbour_overlap` measured it at 10 neighbours.
        sequences: Items in the order in which they were bought, read or watched, as item ids or
            as rows of the table. An item that follows itself is not counted.

    Raises:
        ValueError: If sequences hold an item that the table lacks, or no two different items in a
            row, or `neighbour_overlap` is not within [0, 1].
    """
    if neighbour_overlap is not None and not 0 <= neighbour_overlap <= 1:
        raise ValueError(f"neighbour_overlap must be within [0, 1], got {neighbour_overlap}")
    resolved = measure_collisions(semantic_ids.codes)
    before = collisions or resolved
    shared: list[tuple[float | None, float | None]] = [(None, None)] * semantic_ids.num_levels
    num_pairs = None
    if sequences is not None:
        pairs = _consecutive(semantic_ids, sequences)
        num_pairs = len(pairs)
        shared = _shared_prefixes(semantic_ids.codes, pairs)
    levels = []
    for level, size in enumerate(semantic_ids.codebook_sizes):
        counts = np.bincount(semantic_ids.codes[:, level])
        shares = counts[counts > 0] / max(len(semantic_ids), 1)
        entropy = float(-(shares * np.log2(shares)).sum()) + 0.0  # -0.0 becomes 0.0
        known = distortion is not None and level < len(distortion)
        levels.append(
            LevelHealth(
                codebook_size=size,
                used=len(shares),
                utilisation=len(shares) / size,
                entropy=entropy,
                perplexity=2**entropy,
                distortion=distortion[level] if distortion is not None and known else None,
                shared_prefix=shared[level][0],
                shared_by_chance=shared[level][1],
            )
        )
    depths = np.bincount(semantic_ids.depths, minlength=semantic_ids.num_levels + 1)[1:]
    return CodeHealth(
        num_items=len(semantic_ids),
        levels=tuple(levels),
        collision_rate=before.rate,
        largest_bucket=before.largest_bucket,
        resolved_collision_rate=resolved.rate,
        resolved_largest_bucket=resolved.largest_bucket,
        depths=tuple(depths.tolist()),
        neighbour_overlap=neighbour_overlap,
        num_pairs=num_pairs,
    )


def chance_overlap(num_items: int, num_neighbours: int = 10) -> float:
    """The expected neighbour overlap of codes that are independent of the embeddings."""
    return min(1.0, num_neighbours / max(num_items - 1, 1))


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _consecutive(
    semantic_ids: SemanticIds, sequences: Sequence[Sequence[str | int]]
) -> Int64[np.ndarray, "pairs two"]:
    """The rows of consecutive items, without pairs of an item with itself."""
    pairs: list[tuple[int, int]] = []
    for sequence in sequences:
        rows = [semantic_ids.row(i) if isinstance(i, str) else int(i) for i in sequence]
        pairs.extend(pairwise(rows))
    table: Int64[np.ndarray, "pairs two"] = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    outside = (table < 0) | (table >= len(semantic_ids))
    if outside.any():
        raise ValueError(
            f"sequences must hold rows within [0, {len(semantic_ids)}), got {table[outside][0]}"
        )
    moves: Int64[np.ndarray, "moves two"] = table[table[:, 0] != table[:, 1]]
    if len(moves) == 0:
        raise ValueError("sequences must hold two different items in a row, got none")
    return moves


def _shared_prefixes(
    codes: Int64[np.ndarray, "items levels"], pairs: Int64[np.ndarray, "pairs two"]
) -> list[tuple[float | None, float | None]]:
    """How often a pair shares its first 1, 2, ... codes, and how often a shuffled pair would.

    Shuffled pairs combine each first item with each second item, again without pairs of an item
    with itself. Their expectation is computed as a sum over prefixes: nothing is drawn at random.
    """
    num_items, num_pairs = len(codes), len(pairs)
    first = np.bincount(pairs[:, 0], minlength=num_items) / num_pairs
    second = np.bincount(pairs[:, 1], minlength=num_items) / num_pairs
    with_itself = float(first @ second)
    same = codes[pairs[:, 0]] == codes[pairs[:, 1]]
    observed = np.logical_and.accumulate(same, axis=1).mean(axis=0)
    shared: list[tuple[float | None, float | None]] = []
    for level, share in enumerate(observed.tolist(), start=1):
        group = np.unique(number_rows(codes[:, :level]), return_inverse=True)[1].reshape(-1)
        together = float(np.bincount(group, first) @ np.bincount(group, second))
        shared.append((share, max(together - with_itself, 0.0) / (1 - with_itself)))
    return shared
