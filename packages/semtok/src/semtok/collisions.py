"""Collisions: items that share all their codes; how many there are, and what is done about them.

Policies:

- `allow`: the codes stay as they are.
- `suffix`: one more level numbers the items that share their codes, from 0 (as TIGER does). The
  level is added whether or not there are collisions, so that later items find it there.
- `reassign`: the first item keeps its codes; each other keeps all but its last code and takes the
  nearest free last code, by the quantizer's own distance. If all last codes are taken, it goes
  back to the deepest level that has free codes below it. From there it takes the nearest code with
  free codes below it, level by level. The number of levels does not change.

Hierarchical k-means gives every fitted item its own codes, so `reassign` changes none of them. A
later item first gets the codes of a fitted item and must move. If the tree has no node for the free
codes, all are equally near, and the lowest is taken. If a cluster is full, the item moves to the
nearest cluster with free codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float, Int64

from semtok.code_numbers import number_rows
from semtok.free_codes import SortedCodes
from semtok.progress import Progress, report

if TYPE_CHECKING:
    from semtok.candidates import CodeCosts
    from semtok.quantizers.contract import Quantizer
    from semtok.semantic_ids import SemanticIds

Policy = Literal["suffix", "reassign", "allow"]


@dataclass(frozen=True, kw_only=True)
class Collisions:
    """How many codes collided, and how the collisions were resolved.

    Attributes:
        rate: The share of items that shared all their codes with another.
        largest_bucket: How many items shared the most common codes.
        policy: The policy that was applied.
        num_moved: How many items got codes that differ from the quantizer's, or, under `suffix`, a
            number other than 0.
    """

    rate: float
    largest_bucket: int
    policy: Policy = "allow"
    num_moved: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not 0 <= self.rate <= 1:
            raise ValueError(f"rate must be within [0, 1], got {self.rate}")
        for name, count in (("largest_bucket", self.largest_bucket), ("num_moved", self.num_moved)):
            if type(count) is not int or count < 0:
                raise ValueError(f"{name} must be a count, got {count}")
        if self.policy not in get_args(Policy):
            raise ValueError(
                f"policy must be one of {', '.join(get_args(Policy))}, got {self.policy!r}"
            )

    @property
    def outcome(self) -> str:
        """The result of the policy as a sentence."""
        done = {
            "allow": "items that share their codes stay as they are",
            "suffix": f"{self.num_moved:,} items told from others by their last code",
            "reassign": f"{self.num_moved:,} items moved to a free code",
        }
        return f"collisions resolved by {self.policy}: {done[self.policy]}"


def measure_collisions(codes: Int64[np.ndarray, "items levels"]) -> Collisions:
    """Counts the items that share all their codes with another."""
    if len(codes) == 0:
        return Collisions(rate=0.0, largest_bucket=0)
    numbers = number_rows(codes)
    numbers.sort()
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
    counts = np.diff(starts, append=len(numbers))
    return Collisions(
        rate=float(counts[counts > 1].sum() / len(codes)), largest_bucket=int(counts.max())
    )


def resolve_collisions(
    codes: Int64[np.ndarray, "items levels"],
    codebook_sizes: Sequence[int],
    *,
    policy: Policy,
    assigned: SemanticIds | None = None,
    quantizer: Quantizer | None = None,
    x: Float[np.ndarray, "items dim"] | None = None,
    progress: Progress | None = None,
) -> tuple[Int64[np.ndarray, "items resolved"], tuple[int, ...], Collisions]:
    """Applies a policy to codes.

    Args:
        codes: The codes that a quantizer computed.
        codebook_sizes: The codebook sizes of the quantizer.
        policy: `suffix`, `reassign` or `allow`; see the module.
        assigned: Semantic IDs of other items, from the same policy. They do not change. Except
            under `allow`, no row gets any of them.
        quantizer: Its distances decide which free code is the nearest for `reassign`. Without a
            quantizer all free codes are equally near, and the lowest is taken.
        x: The vectors that the quantizer encoded; required with `quantizer`.
        progress: Called with the number of moved items, and the number of items to move.

    Returns:
        The codes, the codebook sizes, and the collisions. The codes are unique except under
        `allow`. The level that `suffix` adds has the size of the last level, or twice the size of
        the largest bucket if that is larger.

    Raises:
        ValueError: If no free code is left, or the policy is unknown.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, got {policy!r}")
    if (quantizer is None) != (x is None):
        raise ValueError("quantizer and x must be given together, got one of them")
    sizes = tuple(codebook_sizes)
    counted = replace(measure_collisions(codes), policy=policy)
    if policy == "allow":
        return codes, sizes, counted
    if policy == "suffix":
        sizes = (*sizes, max(sizes[-1], 2 * counted.largest_bucket))
        codes = np.column_stack([codes, np.zeros(len(codes), dtype=np.int64)])
    taken = np.empty((0, len(sizes)), dtype=np.int64)
    if assigned is not None:
        taken, sizes = assigned.codes, assigned.codebook_sizes
    rows = SortedCodes(taken, codes, sizes)
    if rows.num_moving == 0:
        return codes, sizes, counted
    if policy == "suffix":
        rows.number(codes)
        resolved = codes
        report(progress, rows.num_moving, rows.num_moving)
    else:
        resolved = codes.copy()
        rows.move(resolved, _costs(quantizer), x, progress)
    return resolved, sizes, replace(counted, num_moved=rows.num_moving)


def _costs(quantizer: Quantizer | None) -> CodeCosts | None:
    if quantizer is None:
        return None
    from semtok.candidates import code_costs  # which needs every quantizer, and so faiss

    return code_costs(quantizer)
