"""Tokens of a code sequence: one for every code of every level, and two special ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Numbers the codes of all levels through, then <BOS>, then <c_dis>.

    Attributes:
        level_sizes: Number of codes (or of trie nodes, where each has a token of its own) a level.
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
        """The token <c_dis>, whose state is distilled into (PRORec, section 3.4)."""
        return self.bos + 1

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.bos + 2

    def encode(self, codes: Int[Tensor, "*batch levels"]) -> Int[Tensor, "*batch levels"]:
        """Returns the token of each code; column l holds codes of level l."""
        return codes + codes.new_tensor(self.level_offsets)[: codes.shape[-1]]

    def decode(
        self, tokens: Int[Tensor, "*batch"]
    ) -> tuple[Int[Tensor, "*batch"], Int[Tensor, "*batch"]]:
        """Returns the level and the code of each token.

        Raises:
            ValueError: A token is special, or none of the vocabulary.
        """
        wrong = (tokens < 0) | (tokens >= self.bos)
        if bool(wrong.any()):
            raise ValueError(
                f"tokens must be at least 0 and below {self.bos}, got {int(tokens[wrong][0])}"
            )
        offsets = tokens.new_tensor(self.level_offsets)
        level = torch.searchsorted(offsets, tokens, right=True) - 1
        return level, tokens - offsets[level]
