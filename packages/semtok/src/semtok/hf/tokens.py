"""The codes of items as tokens of a Hugging Face tokenizer; items as text, and text as items."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int64

from semtok.hf.extra import extra_is_needed
from semtok.semantic_ids import SemanticIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Invalid = Literal["error", "mark"]
"""What to do with tokens in a text that are no item: an error, or a row of -1."""

_TOKEN = re.compile(r"<([a-z]+)_(0|[1-9][0-9]{0,8})>")


def item_token_names(codebook_sizes: Sequence[int]) -> list[list[str]]:
    """The names of the tokens of each level: "<a_0>", "<a_1>" and so on; "<b_0>" and so on.

    The levels are called a to z, then aa, ab and so on.

    Args:
        codebook_sizes: The number of codes at each level.
    """
    return [
        [f"<{_level_name(level)}_{code}>" for code in range(size)]
        for level, size in enumerate(codebook_sizes)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemTokens:
    """Semantic IDs as tokens of a Hugging Face tokenizer: one token for each code of each level.

    Attributes:
        semantic_ids: The items and their codes.
        token_ids: The tokenizer's id of each code's token, [levels, codes]; -1 where a level has
            fewer codes. With the codes, this is all that constrained decoding needs: genrec's
            `TrieLogitsProcessor` takes both as arrays.
    """

    semantic_ids: SemanticIds
    token_ids: Int64[np.ndarray, "levels codes"]

    def __post_init__(self) -> None:
        sizes = self.semantic_ids.codebook_sizes
        shape = (len(sizes), max(sizes))
        if self.token_ids.shape != shape:
            raise ValueError(
                f"token_ids must have the shape {list(shape)}, as levels and codes, "
                f"got {list(self.token_ids.shape)}"
            )
        is_code = np.arange(shape[1]) < np.array(sizes)[:, None]
        numbers = self.token_ids[is_code]
        if numbers.min() < 0 or len(np.unique(numbers)) != len(numbers):
            raise ValueError("token_ids must be another one, from 0, for each code, got some twice")
        if (self.token_ids[~is_code] != -1).any():
            raise ValueError("token_ids must be -1 where a level has no such code")

    def __repr__(self) -> str:
        return f"ItemTokens({self.semantic_ids!r}, tokens from {self.token_ids[0, 0]:,} on)"

    @classmethod
    def add_to(cls, tokenizer: PreTrainedTokenizerBase, semantic_ids: SemanticIds) -> ItemTokens:
        """Adds a token for each code to a tokenizer; tokens that it already has are left alone.

        They are not special tokens: `decode(..., skip_special_tokens=True)` keeps them. The model's
        embeddings are not changed; see `start_embeddings`.

        Args:
            tokenizer: Changed in place; its `save_pretrained` also saves the new tokens.
            semantic_ids: The items and their codes.

        Raises:
            ImportError: If `semtok[hf]` is not installed.
            ValueError: If the tokenizer splits a new token, as it does not support added tokens.
        """
        try:
            from transformers import AddedToken
        except ModuleNotFoundError as error:
            raise extra_is_needed("tokens of a language model", error) from None
        names = item_token_names(semantic_ids.codebook_sizes)
        # Not normalized: a tokenizer that lower-cases would not recognise them.
        tokenizer.add_tokens(
            [AddedToken(name, normalized=False) for level in names for name in level]
        )
        width = max(semantic_ids.codebook_sizes)
        numbers = np.full((len(names), width), -1, dtype=np.int64)
        for level, row in enumerate(names):
            numbers[level, : len(row)] = tokenizer.convert_tokens_to_ids(row)
        text = "".join(level[0] for level in names)
        if tokenizer(text, add_special_tokens=False)["input_ids"] != numbers[:, 0].tolist():
            raise ValueError(
                f"tokenizer must take each added token as one, got {text!r} split otherwise"
            )
        return cls(semantic_ids=semantic_ids, token_ids=numbers)

    def tokens_of(
        self, codes: Int64[np.ndarray, "items levels"]
    ) -> Int64[np.ndarray, "items levels"]:
        """The tokens of codes.

        Raises:
            ValueError: If a code is outside its codebook.
        """
        sizes = np.array(self.semantic_ids.codebook_sizes)
        if codes.shape[1] != len(sizes) or (codes < 0).any() or (codes >= sizes).any():
            raise ValueError(
                f"codes must be within the codebook sizes {self.semantic_ids.codebook_sizes}"
            )
        tokens: np.ndarray = self.token_ids[np.arange(len(sizes)), codes]
        return tokens

    def codes_of(
        self, token_ids: Int64[np.ndarray, "items levels"]
    ) -> Int64[np.ndarray, "items levels"]:
        """The codes of tokens; -1 for a token that is not a token of its level.

        Raises:
            ValueError: If there are not as many tokens per item as levels.
        """
        if token_ids.shape[1] != self.semantic_ids.num_levels:
            raise ValueError(
                f"token_ids must be {self.semantic_ids.num_levels} per item, one per level, "
                f"got {token_ids.shape[1]}"
            )
        inside = (token_ids >= 0) & (token_ids < self._code_of_token.shape[1])
        levels = np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)
        codes = self._code_of_token[levels, np.where(inside, token_ids, 0)]
        return np.where(inside, codes, -1)

    def text(self, rows: Sequence[int] | Int64[np.ndarray, " items"], separator: str = "") -> str:
        """The text of items, as "<a_1><b_5><c_2>", one after the other.

        Args:
            rows: Rows of `semantic_ids`.
            separator: The text between two items.

        Raises:
            ValueError: If there is no such row.
        """
        return separator.join(map(self._text, rows))

    def interleaved(self, parts: Sequence[str | int]) -> str:
        """A text in which items appear among words.

        Args:
            parts: Texts, which are kept as they are, and rows of `semantic_ids`.

        Raises:
            ValueError: If there is no such row.
        """
        return "".join(part if isinstance(part, str) else self._text(part) for part in parts)

    def codes_in(
        self, text: str, *, invalid: Invalid = "error"
    ) -> Int64[np.ndarray, "items levels"]:
        """The codes of the items that a text names, in order; other words may be among them.

        Consecutive tokens belong to one item if only spaces stand between them, until the first
        level comes again. An item is complete if it has each level once, in order.

        Args:
            text: A text such as a model's answer.
            invalid: What to do with tokens that are not a complete item: "error", or "mark", which
                returns a row of -1 for them.

        Raises:
            ValueError: If tokens are not a complete item, unless `invalid` is "mark".
        """
        rows: list[tuple[int, ...]] = []
        for tokens, start, end in self._groups(text):
            is_whole = [level for level, _ in tokens] == list(range(len(self._sizes))) and all(
                code < size for (_, code), size in zip(tokens, self._sizes, strict=True)
            )
            if not is_whole and invalid == "error":
                raise ValueError(
                    f"text must name whole items of {len(self._sizes)} levels with codes within "
                    f"{self.semantic_ids.codebook_sizes}, got {text[start:end]!r}"
                )
            rows.append(tuple(code for _, code in tokens) if is_whole else (-1,) * len(self._sizes))
        return np.array(rows, dtype=np.int64).reshape(-1, len(self._sizes))

    def rows_in(self, text: str, *, invalid: Invalid = "error") -> Int64[np.ndarray, " items"]:
        """The rows of the items that a text names, in order; see `codes_in`.

        Raises:
            ValueError: If tokens are not a complete item, or no item has their codes, unless
                `invalid` is "mark", which returns -1 for them.
        """
        codes = self.codes_in(text, invalid=invalid)
        rows = self.semantic_ids.rows(codes)
        if invalid == "error" and (rows < 0).any():
            unknown = codes[rows < 0][0].tolist()
            raise ValueError(f"text must name items of the table, got the codes {unknown} of none")
        return rows

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.semantic_ids.codebook_sizes

    @cached_property
    def _names(self) -> list[list[str]]:
        return item_token_names(self._sizes)

    @cached_property
    def _level_of_name(self) -> dict[str, int]:
        return {_level_name(level): level for level in range(len(self._sizes))}

    @cached_property
    def _code_of_token(self) -> Int64[np.ndarray, "levels tokens"]:
        """The code of each token at each level; -1 where it is not a token of the level."""
        codes = np.full((len(self.token_ids), self.token_ids.max() + 1), -1, dtype=np.int64)
        for level, (row, size) in enumerate(zip(self.token_ids, self._sizes, strict=True)):
            codes[level, row[:size]] = np.arange(size)
        return codes

    def _text(self, row: object) -> str:
        if not isinstance(row, int | np.integer):
            raise ValueError(f"rows must be whole numbers, as item_ids has them, got {row!r}")
        if not 0 <= row < len(self.semantic_ids):
            raise ValueError(f"rows must be within [0, {len(self.semantic_ids)}), got {row}")
        codes = self.semantic_ids.codes[row].tolist()
        return "".join(names[code] for names, code in zip(self._names, codes, strict=True))

    def _groups(self, text: str) -> Iterator[tuple[list[tuple[int, int]], int, int]]:
        """The (level, code) of each run of adjacent tokens, and its place in the text."""
        group: list[tuple[int, int]] = []
        start = end = 0
        for match in _TOKEN.finditer(text):
            level = self._level_of_name.get(match[1])
            if level is None:  # other text in angle brackets
                continue
            if group and (level == 0 or text[end : match.start()].strip()):
                yield group, start, end
                group = []
            start = match.start() if not group else start
            end = match.end()
            group.append((level, int(match[2])))
        if group:
            yield group, start, end


def _level_name(level: int) -> str:
    """The letters of a level: a to z, aa, ab and so on."""
    name = ""
    level += 1
    while level:
        level, letter = divmod(level - 1, 26)
        name = chr(ord("a") + letter) + name
    return name
