"""Collisions: items that share all their codes; how many there are, and what is done about them.

Policies:

- `allow`: the codes stay as they are.
- `suffix`: one more level numbers the items that share their codes, from 0 (as TIGER does). The
  level is added whether or not there are collisions, so that later items find it there.
- `reassign`: the first item keeps its codes; each other keeps all but its last code and takes the
  nearest free one there, by the quantizer's own distance. Where all of those are taken, it goes
  back to the deepest level below which anything is free, and from there takes the nearest code
  with a free one below it, level by level. The number of levels stays as it is.

Hierarchical k-means gives every fitted item codes of its own, so `reassign` changes none of them.
An item that comes later arrives at a fitted item and stays beside it: where the tree has no node,
no free code is nearer than another, and the lowest is taken; once a cluster is full, the nearest
cluster with room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int64

from semtok.code_numbers import number_rows
from semtok.progress import Progress, report

if TYPE_CHECKING:
    from semtok.candidates import CodeCosts
    from semtok.quantizers.contract import Quantizer
    from semtok.semantic_ids import SemanticIds

Policy = Literal["suffix", "reassign", "allow"]

_REPORT_EVERY = 1000


@dataclass(frozen=True, kw_only=True)
class Collisions:
    """How far codes were from being unique, and what was done about it.

    Attributes:
        rate: The share of items that shared all their codes with another.
        largest_bucket: How many items shared the most common codes.
        policy: What was applied.
        num_moved: How many items got other codes than the quantizer gave, or under `suffix`
            another number than 0.
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
        """What was done, in words."""
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
    _, counts = np.unique(number_rows(codes), return_counts=True)
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
        codes: What a quantizer gave.
        codebook_sizes: Its codebook sizes.
        policy: `suffix`, `reassign` or `allow`; see the module.
        assigned: Semantic IDs of other items, by the same policy. They stay, and except under
            `allow` no row gets any of them.
        quantizer: Tells `reassign` which free code is the nearest; without it, all are equally
            near, and the lowest is taken.
        x: What the quantizer encoded; goes with it.
        progress: Called with how many items of those to be moved are done, and of how many.

    Returns:
        The codes, unique except under `allow`; their codebook sizes, where the level that
        `suffix` adds is as large as the last one, or twice the largest bucket if that is larger;
        and how many items collided among `codes`, and were moved.

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
    losers, kept = _losers(taken, codes)
    if len(losers) == 0:
        return codes, sizes, counted
    free = _FreeCodes(kept, sizes)
    costs = None if policy == "suffix" else _costs(quantizer)
    resolved = codes.copy()
    for done, row in enumerate(losers, start=1):
        if policy == "suffix":
            resolved[row] = free.number(tuple(codes[row, :-1].tolist()))
        else:
            vector = None if x is None else x[row]
            resolved[row] = free.nearest(tuple(codes[row].tolist()), costs, vector)
        if done % _REPORT_EVERY == 0 or done == len(losers):
            report(progress, done, len(losers))
    return resolved, sizes, replace(counted, num_moved=len(losers))


def _losers(
    taken: Int64[np.ndarray, "taken levels"], codes: Int64[np.ndarray, "items levels"]
) -> tuple[Int64[np.ndarray, " losers"], Int64[np.ndarray, "kept levels"]]:
    """The rows of `codes` whose codes an earlier row has, and all codes that stay."""
    everything = np.concatenate([taken, codes])
    is_first = np.zeros(len(everything), dtype=bool)
    is_first[np.unique(number_rows(everything), return_index=True)[1]] = True
    return np.flatnonzero(~is_first[len(taken) :]), everything[is_first]


def _costs(quantizer: Quantizer | None) -> CodeCosts | None:
    if quantizer is None:
        return None
    from semtok.candidates import code_costs  # which needs every quantizer, and so faiss

    return code_costs(quantizer)


class _FreeCodes:
    """Hands out free paths, each once."""

    def __init__(self, taken: Int64[np.ndarray, "taken levels"], sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._taken = taken[np.lexsort(taken.T[::-1])]
        # How many paths lie below a prefix of 0, 1, ... codes.
        self._capacity = [min(math.prod(sizes[level:]), 2**62) for level in range(len(sizes) + 1)]
        self._added: dict[tuple[int, ...], dict[int, int]] = {}
        self._lowest: dict[tuple[int, ...], int] = {}

    def number(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        """The lowest free code below a prefix of all but the last level, after the prefix."""
        code = self._lowest.get(prefix)
        if code is None:  # codes are handed out in ascending order: none below this is free again
            code = int((self._counts(prefix) > 0).argmin())
            full = len(self._range(prefix)) == self._sizes[-1]
            code = self._sizes[-1] if full else code
        while code < self._sizes[-1] and len(self._range((*prefix, code))):
            code += 1
        if code >= self._sizes[-1]:
            raise ValueError(
                f"codes must leave a free one, got {list(prefix)} with all {self._sizes[-1]} "
                "codes of the suffix taken: fit with a larger codebook_size"
            )
        self._lowest[prefix] = code + 1
        return (*prefix, code)

    def nearest(
        self, path: tuple[int, ...], costs: CodeCosts | None, x: np.ndarray | None
    ) -> tuple[int, ...]:
        """A free path that shares as long a prefix with `path` as can be, and is near to `x`."""
        level = len(path) - 1
        while level >= 0 and not (room := self._room(path[:level])).any():
            level -= 1
        if level < 0:
            raise ValueError(
                f"codes must leave a free one, got all of {self._sizes} taken: "
                "fit with a larger codebook_size"
            )
        prefix = path[:level]
        while len(prefix) < len(path):
            code = int(room.argmax())
            if costs is not None and x is not None:
                code = _cheapest(costs(x, prefix), room)
            prefix = (*prefix, code)
            if len(prefix) < len(path):
                room = self._room(prefix)
        for depth, code in enumerate(prefix):
            below = self._added.setdefault(prefix[:depth], {})
            below[code] = below.get(code, 0) + 1
        return prefix

    def _room(self, prefix: tuple[int, ...]) -> Bool[np.ndarray, " codes"]:
        """Below which codes after a prefix a path is free."""
        counts = self._counts(prefix)
        for code, count in self._added.get(prefix, {}).items():
            counts[code] += count
        room: Bool[np.ndarray, " codes"] = counts < self._capacity[len(prefix) + 1]
        return room

    def _counts(self, prefix: tuple[int, ...]) -> Int64[np.ndarray, " codes"]:
        """How many paths were taken from the start below each code after a prefix."""
        rows = self._range(prefix)
        return np.bincount(
            self._taken[rows.start : rows.stop, len(prefix)], minlength=self._sizes[len(prefix)]
        )

    def _range(self, prefix: tuple[int, ...]) -> range:
        """The rows of `_taken` that begin with a prefix."""
        start, stop = 0, len(self._taken)
        for level, code in enumerate(prefix):
            column = self._taken[start:stop, level]
            start, stop = (
                start + int(column.searchsorted(code, "left")),
                start + int(column.searchsorted(code, "right")),
            )
        return range(start, stop)


def _cheapest(costs: Float[np.ndarray, " codes"], room: Bool[np.ndarray, " codes"]) -> int:
    """The cheapest of the codes with room; the lowest of equally cheap ones."""
    codes = np.flatnonzero(room)
    return int(codes[costs[codes].argmin()])
