"""How good codes are: how much of each codebook is used, how evenly, and what collides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semtok.collisions import Collisions, measure_collisions
from semtok.semantic_ids import SemanticIds

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class LevelHealth:
    """One level of the codes. Padding counts as code 0.

    Attributes:
        codebook_size: Codes to choose from.
        used: How many of them at least one item has.
        utilisation: `used` as a share of `codebook_size`.
        entropy: Of the distribution of codes over items, in bits.
        perplexity: 2 to the entropy: as many evenly used codes would be as hard to guess.
        distortion: Mean squared distance to what the codes so far stand for, if measured.
    """

    codebook_size: int
    used: int
    utilisation: float
    entropy: float
    perplexity: float
    distortion: float | None


@dataclass(frozen=True, kw_only=True)
class CodeHealth:
    """The health of a code table.

    Attributes:
        num_items: Items in the table.
        levels: Each level's health.
        collision_rate: The share of items that share all codes with another, before collisions
            were resolved where that is known.
        largest_bucket: The most items that share all codes, likewise.
        depths: How many items are singled out by their first 1, 2, ... codes and no fewer; for
            hierarchical k-means, the lengths of paths before padding.
    """

    num_items: int
    levels: tuple[LevelHealth, ...]
    collision_rate: float
    largest_bucket: int
    depths: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return asdict(self)

    def table(self) -> Table:
        """A rich table: one row a level, and a caption with the rest."""
        from rich.table import Table

        depths = ", ".join(f"{count:,} with {d}" for d, count in enumerate(self.depths, 1) if count)
        table = Table(
            title=f"{self.num_items:,} items, {len(self.levels)} levels",
            caption=f"collisions: {self.collision_rate:.2%} of items, largest bucket "
            f"{self.largest_bucket}\ncodes that single an item out: {depths}",
            caption_justify="left",
        )
        for name in ("level", "codes", "used", "utilisation", "perplexity", "entropy"):
            table.add_column(name, justify="right")
        measured = any(level.distortion is not None for level in self.levels)
        if measured:
            table.add_column("distortion", justify="right")
        for number, level in enumerate(self.levels, start=1):
            cells = [
                str(number),
                str(level.codebook_size),
                str(level.used),
                f"{level.utilisation:.1%}",
                f"{level.perplexity:.1f}",
                f"{level.entropy:.2f} bit",
            ]
            if measured:
                cells.append("" if level.distortion is None else f"{level.distortion:.4g}")
            table.add_row(*cells)
        return table


def measure_health(
    semantic_ids: SemanticIds,
    *,
    collisions: Collisions | None = None,
    distortion: Sequence[float] | None = None,
) -> CodeHealth:
    """Measures a code table.

    Args:
        semantic_ids: The table.
        collisions: As counted before they were resolved; None counts those of the table.
        distortion: After each level, as `quantizer.distortion` gives it; may be shorter than the
            codes, as a suffix has none.
    """
    collisions = collisions or measure_collisions(semantic_ids.codes)
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
            )
        )
    depths = np.bincount(semantic_ids.depths, minlength=semantic_ids.num_levels + 1)[1:]
    return CodeHealth(
        num_items=len(semantic_ids),
        levels=tuple(levels),
        collision_rate=collisions.rate,
        largest_bucket=collisions.largest_bucket,
        depths=tuple(depths.tolist()),
    )
