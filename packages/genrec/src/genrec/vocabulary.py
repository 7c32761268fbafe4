"""The tokens of code sequences, and their vectors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.trie import Trie


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Numbers of tokens: first the codes of all levels, level after level, then <BOS> and <c_dis>.

    Attributes:
        level_sizes: Number of codes of each level, or of trie nodes if each node has its own token.

    Raises:
        ValueError: There is no level, or a size is below 1.
    """

    level_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.level_sizes or min(self.level_sizes) < 1:
            raise ValueError(
                f"level_sizes must be positive, at least one level, got {self.level_sizes}"
            )

    @property
    def level_offsets(self) -> tuple[int, ...]:
        """First token of each level."""
        return (0, *accumulate(self.level_sizes[:-1]))

    @property
    def bos(self) -> int:
        """The token <BOS>, with which every code sequence starts; also the number of codes."""
        return sum(self.level_sizes)

    @property
    def c_dis(self) -> int:
        """The token <c_dis>, whose state is trained by distillation (PRORec, section 3.4)."""
        return self.bos + 1

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.bos + 2

    def encode(self, codes: Int[Tensor, "*batch levels"]) -> Int[Tensor, "*batch levels"]:
        """Returns the token of each code; column l holds codes of level l."""
        return codes + codes.new_tensor(self.level_offsets)[: codes.shape[-1]]


class TokenTable(nn.Module):
    """One vector per token: learned, or a learned projection of a fixed vector plus an offset.

    The offsets of tokens with fixed vectors are learned and start at zero. So a rare token stays
    close to the projection of its fixed vector, near similar tokens.

    Args:
        num_tokens: Number of rows.
        dim: Width of a row.
        num_fixed: The first `num_fixed` tokens have fixed vectors.
        fixed_dim: Width of the fixed vectors; None if there are none.
    """

    def __init__(
        self, num_tokens: int, dim: int, *, num_fixed: int = 0, fixed_dim: int | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tokens, dim) * dim**-0.5)
        self.projection: nn.Linear | None = None
        if fixed_dim is not None:
            self.projection = nn.Linear(fixed_dim, dim, bias=False)
            nn.init.normal_(self.projection.weight, std=(dim * fixed_dim) ** -0.5)
            nn.init.zeros_(self.weight[:num_fixed])

    def forward(
        self,
        tokens: Int[Tensor, "*batch"],
        vectors: Float[Tensor, "num_fixed fixed_dim"] | None = None,
    ) -> Float[Tensor, "*batch dim"]:
        """Looks tokens up.

        Args:
            tokens: Rows of the table.
            vectors: The fixed vectors, one per row; required if `fixed_dim` is not None.
        """
        rows = F.embedding(tokens, self.weight)
        if self.projection is not None:
            assert vectors is not None
            has_vector = tokens < len(vectors)  # [*batch]
            fixed = vectors[tokens.clamp(max=len(vectors) - 1)] * has_vector[..., None]
            rows = rows + self.projection(fixed)
        return rows


def node_means(
    trie: Trie, item_vectors: Float[Tensor, "items vector_dim"]
) -> Float[Tensor, "nodes vector_dim"]:
    """Returns the mean vector of the items under each node, standardised by level and dimension.

    Args:
        trie: The items' codes.
        item_vectors: One vector per item.

    Returns:
        One row per node, level by level; a dimension without variance in a level is 0 there.
    """
    levels = []
    for mean in level_means(trie, item_vectors):
        spread = mean.std(dim=0, correction=0)
        levels.append((mean - mean.mean(dim=0)) / spread.clamp(min=1e-6))
    return torch.cat(levels)


def level_means(
    trie: Trie, item_vectors: Float[Tensor, "items vector_dim"]
) -> list[Float[Tensor, "nodes vector_dim"]]:
    """Returns the mean vector of the items under each node, one table per level.

    Args:
        trie: The items' codes.
        item_vectors: One vector per item.
    """
    means = []
    paths = trie.paths(torch.arange(trie.num_items, device=trie.device))  # [items, levels]
    for level, size in enumerate(trie.level_sizes):
        total = item_vectors.new_zeros(size, item_vectors.shape[1])
        total.index_add_(0, paths[:, level], item_vectors)
        nodes = torch.arange(size, device=trie.device)
        means.append(total / trie.items_below(level, nodes)[:, None])
    return means
