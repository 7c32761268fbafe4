"""The tokens of codes in a language model: a table from (level, code) to token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from genrec.trie import Trie


class CodeTokens:
    """The token ids of a catalogue's codes, and the codes of token ids, as tensors.

    Args:
        trie: The catalogue; the tensors are on its device.
        token_ids: For each level the token id of each code: lists or arrays of whole numbers, or
            one array of [levels, codes] in which shorter levels are padded with -1.

    Raises:
        TypeError: The ids are no whole numbers.
        ValueError: There is not one row per level, a code has no token or a token no code, or two
            codes have the same token.
    """

    def __init__(self, trie: Trie, token_ids: Iterable[Any]) -> None:
        rows = [torch.as_tensor(row, device=trie.device) for row in token_ids]
        if len(rows) != trie.num_levels:
            raise ValueError(
                f"token_ids must have one row per level, got {len(rows)} for a trie of "
                f"{trie.num_levels} levels"
            )
        levels = []
        for level, (row, size) in enumerate(zip(rows, trie.codebook_sizes, strict=True)):
            _check_row(level, row, size)
            levels.append(row[:size].long())
        ids = torch.cat(levels)  # [codes of all levels]
        ordered, order = ids.sort(stable=True)
        (repeats,) = (ordered[1:] == ordered[:-1]).nonzero(as_tuple=True)
        if len(repeats):
            first, second = sorted(int(order[repeats[0] + place]) for place in (0, 1))
            raise ValueError(
                f"token_ids must differ from code to code, got {int(ids[first])} for "
                f"{_name(first, trie.codebook_sizes)} and {_name(second, trie.codebook_sizes)}"
            )
        self.ids = levels
        self.largest = int(ordered[-1])
        # Indexed by token id, with one last entry for all larger ids; -1 if the id is of no code.
        self._levels = torch.full((self.largest + 2,), -1, device=trie.device)
        self._codes = torch.full((self.largest + 2,), -1, device=trie.device)
        for level, row in enumerate(levels):
            self._levels[row] = level
            self._codes[row] = torch.arange(len(row), device=trie.device)

    def codes(self, tokens: Int[Tensor, "*batch depth"]) -> Int[Tensor, "*batch depth"]:
        """Returns the code of each token; -1 where column l holds no token of level l."""
        places = tokens.clamp(min=-1, max=self.largest + 1)  # both limits index the last entry
        level = torch.arange(tokens.shape[-1], device=tokens.device)
        return self._codes[places].masked_fill(self._levels[places] != level, -1)

    def __contains__(self, token_id: int) -> bool:
        """Returns whether a token id belongs to a code."""
        return 0 <= token_id <= self.largest and int(self._codes[token_id]) >= 0

    def smallest_other(self) -> int:
        """Returns the smallest token id that belongs to no code."""
        return int((self._codes < 0).nonzero()[0])


def _check_row(level: int, row: Tensor, size: int) -> None:
    """Checks that a row holds one token id for each code of a level.

    Raises:
        TypeError: The ids are no whole numbers.
        ValueError: A code has no token, or the row has tokens beyond the last code.
    """
    if row.is_floating_point() or row.is_complex() or row.dtype == torch.bool:
        raise TypeError(f"token_ids must be whole numbers, got {row.dtype} at level {level}")
    if row.ndim != 1 or len(row) < size or bool((row[:size] < 0).any()):
        missing = len(row) if row.ndim != 1 or len(row) < size else int((row < 0).nonzero()[0])
        raise ValueError(
            f"token_ids must have a token for each of the {size} codes of level {level}, got none "
            f"for code {missing}"
        )
    if bool((row[size:] != -1).any()):
        raise ValueError(
            f"token_ids must have -1 beyond the {size} codes of level {level}, got "
            f"{int(row[size:][row[size:] != -1][0])}: are they of another trie?"
        )


def _name(place: int, sizes: Sequence[int]) -> str:
    """Returns the words for a code from its position among the codes of all levels."""
    for level, size in enumerate(sizes):
        if place < size:
            return f"code {place} of level {level}"
        place -= size
    raise AssertionError("a place beyond the last code")
