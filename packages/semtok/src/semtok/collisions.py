"""Collisions: items that share all their codes; how many there are, and what is done about them.

Policies:

- `allow`: the codes stay as they are.
- `suffix`: one more level numbers the items that share their codes, from 0 (as TIGER does). The
  level is added whether or not there are collisions, so that later items find it there.
- `reassign`: the first item keeps its codes; each other takes the lowest free code at the last
  level, or, where all of those are taken, at the deepest level that has one free. The number of
  levels stays as it is.

Hierarchical k-means gives every fitted item codes of its own, so `reassign` changes none of them;
an item that comes later gets a free code beside the item that it is nearest to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64

from semtok.semantic_ids import SemanticIds

Policy = Literal["suffix", "reassign", "allow"]


@dataclass(frozen=True, kw_only=True)
class Collisions:
    """How far codes are from being unique.

    Attributes:
        rate: The share of items that share all their codes with another.
        largest_bucket: How many items share the most common codes.
    """

    rate: float
    largest_bucket: int


def measure_collisions(codes: Int64[np.ndarray, "items levels"]) -> Collisions:
    """Counts the items that share all their codes with another."""
    if len(codes) == 0:
        return Collisions(rate=0.0, largest_bucket=0)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    return Collisions(
        rate=float(counts[counts > 1].sum() / len(codes)), largest_bucket=int(counts.max())
    )


def resolve_collisions(
    codes: Int64[np.ndarray, "items levels"],
    codebook_sizes: Sequence[int],
    *,
    policy: Policy,
    given: SemanticIds | None = None,
) -> tuple[Int64[np.ndarray, "items resolved"], tuple[int, ...]]:
    """Applies a policy to codes.

    Args:
        codes: What a quantizer gave.
        codebook_sizes: Its codebook sizes.
        policy: `suffix`, `reassign` or `allow`; see the module.
        given: Semantic IDs given earlier by the same policy. They stay, and except under `allow`
            no row gets any of them.

    Returns:
        The codes, unique except under `allow`, and their codebook sizes. The level that `suffix`
        adds is as large as the last one, or as the largest bucket if that is larger.

    Raises:
        ValueError: If no free code is left, or the policy is unknown.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, got {policy!r}")
    sizes = tuple(codebook_sizes)
    if policy == "allow":
        return codes, sizes
    if policy == "suffix":
        sizes = (*sizes, max(sizes[-1], measure_collisions(codes).largest_bucket))
        codes = np.column_stack([codes, np.zeros(len(codes), dtype=np.int64)])
    taken = np.empty((0, len(sizes)), dtype=np.int64)
    if given is not None:
        taken, sizes = given.codes, given.codebook_sizes
    _, first, group = np.unique(
        np.concatenate([taken, codes]), axis=0, return_index=True, return_inverse=True
    )
    keeps = (first[group.reshape(-1)] == np.arange(len(taken) + len(codes)))[len(taken) :]
    losers = np.flatnonzero(~keeps)
    if len(losers) == 0:
        return codes, sizes
    resolved = codes.copy()
    free = _FreeCodes(np.concatenate([taken, codes[keeps]]), sizes)
    for row in losers:
        resolved[row] = free.take(codes[row].tolist(), deepest_only=policy == "suffix")
    return resolved, sizes


class _FreeCodes:
    """Hands out the lowest free code below a prefix, each once."""

    def __init__(self, used: Int64[np.ndarray, "used levels"], sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        # For every prefix, the codes that follow it, and the code before which none is free.
        self._next: dict[tuple[int, ...], set[int]] = {}
        self._low: dict[tuple[int, ...], int] = {}
        self._add(map(tuple, used.tolist()))

    def _add(self, paths: Iterable[tuple[int, ...]]) -> None:
        for path in paths:
            for level, code in enumerate(path):
                self._next.setdefault(path[:level], set()).add(code)

    def take(self, path: list[int], *, deepest_only: bool) -> list[int]:
        """A free path that shares as long a prefix with `path` as possible."""
        last = len(path) - 1
        for level in range(last, last - 1 if deepest_only else -1, -1):
            prefix = tuple(path[:level])
            used = self._next.get(prefix, set())
            code = self._low.get(prefix, 0)
            while code in used:
                code += 1
            self._low[prefix] = code
            if code < self._sizes[level]:
                found = [*prefix, code, *[0] * (last - level)]
                self._add([tuple(found)])
                return found
        advice = "fit with a larger codebook_size"
        raise ValueError(
            f"codes must leave a free one, got {path[:-1]} with all {self._sizes[-1]} codes of "
            f"the suffix taken: {advice}"
            if deepest_only
            else f"codes must leave a free one, got all of {self._sizes} taken: {advice}"
        )
