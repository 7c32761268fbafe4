"""`generate` of a Hugging Face model, restricted to the items of a trie.

Every item has the same number of codes, so the number of tokens since the prompt gives the current
level: all rows are at the same level of the same item. One pass through the trie finds the legal
tokens of all rows. Nothing is stored between two steps, so beams can be reordered: the tokens of a
row alone define its node.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import LogitsProcessor

from genrec.hf.tokens import CodeTokens
from genrec.masks import Mask
from genrec.trie import Trie


class Continuations(NamedTuple):
    """The legal next tokens of some rows, and whether a row may end.

    `parents` is the row that each token follows; at the root all rows share the parent 0.
    """

    parents: Int[Tensor, " continuations"]
    tokens: Int[Tensor, " continuations"]
    legal: Bool[Tensor, " continuations"]
    num_parents: int
    is_dead: Bool[Tensor, " rows"]  # only the end may follow
    may_end: Bool[Tensor, " rows"]


class TrieLogitsProcessor(LogitsProcessor):
    """Masks every token that continues no item, for decoder-only and T5-like models.

    Make a new processor for each call of `generate`, since it stores the prompt's length and each
    prompt's lists. Pass it as `logits_processor=[processor]`; `processor.items(sequences)` then
    turns the sequences into item rows. Greedy search, sampling and beam search all work. Prompts of
    one batch may have any length; pad them on the left, as for `generate`. All rows are masked
    together on the model's device, and the cost hardly depends on the size of the catalogue.

    Without `eos_token_id` a sequence ends with its last item: pass the processor's `max_new_tokens`
    to `generate`, that is, levels times items plus separators. With `eos_token_id` the sequence has
    one more token, its end.

    `generate` adds log-probabilities over the whole vocabulary, so the probability of masked tokens
    is lost. With `renormalize_logits=True` the softmax is over the legal tokens instead, as with
    `scoring="renormalized"` in a `Seq2Seq`. An end of sequence that must come then costs nothing.

    If there are more beams than items that may be returned, `generate` returns repeats:
    `genrec.first_of_each(items, -1)` keeps only the first of each item.

    Args:
        trie: The catalogue, on the model's device.
        token_ids: For each level the token id of each code, as for `CodeTokens`.
        prompt_length: Columns of `input_ids` when generation starts. For a decoder-only model this
            is `inputs["input_ids"].shape[1]`, padding included, or 0 if its inputs are embeddings;
            for an encoder-decoder 1 (the start token), or the length of `decoder_input_ids`.
        eos_token_id: The end of a sequence, as in the model's `generation_config`; None if only
            items are generated.
        separator_token_id: The token between two items; None if they follow directly.
        num_items: Largest number of items in a row.
        min_items: Smallest number of items in a row, after which the sequence may end; by default
            `num_items`. A row ends earlier if no item may follow.
        distinct: Whether the items of a row must all differ.
        exclude: Each prompt's items that must not be returned, padded with the number of items.
            A prefix that leads only to such items is masked as well.
        allow: For each prompt the only items that may be returned, padded in the same way; or one
            truth value per item for all prompts, True if it may be returned.

    Raises:
        TypeError: The token ids are no whole numbers, or `exclude` or `allow` is no tensor.
        ValueError: `token_ids` does not fit the trie, a token has two meanings, a number is out of
            range, or a list holds a number that is no item row.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        trie: Trie,
        token_ids: Iterable[Any],
        *,
        prompt_length: int,
        eos_token_id: int | None = None,
        separator_token_id: int | None = None,
        num_items: int = 1,
        min_items: int | None = None,
        distinct: bool = True,
        exclude: Int[Tensor, "prompts m"] | None = None,
        allow: Int[Tensor, "prompts n"] | Bool[Tensor, " items"] | None = None,
    ) -> None:
        self.trie = trie
        self.tokens = CodeTokens(trie, token_ids)
        self.prompt_length = prompt_length
        self.eos_token_id, self.separator_token_id = eos_token_id, separator_token_id
        self.num_items = num_items
        self.min_items = num_items if min_items is None else min_items
        self.distinct = distinct
        self._check_settings()
        for name, items in (("exclude", exclude), ("allow", allow)):
            if items is not None and not isinstance(items, Tensor):
                raise TypeError(
                    f"{name} must be a tensor of item rows, [prompts, items] and padded with the "
                    f"number of items, got {type(items).__name__}"
                )
            if items is not None and items.dtype != torch.bool and items.ndim != 2:
                raise ValueError(
                    f"{name} must hold a list of items for each prompt, [prompts, items], got "
                    f"shape {tuple(items.shape)}"
                )
        lists = [items for items in (exclude, allow) if items is not None and items.ndim == 2]
        self.num_prompts = len(lists[0]) if lists else None  # None if prompts have no lists
        self._mask = Mask.of(trie, self.num_prompts or 0, exclude, allow)
        self._period = trie.num_levels + (separator_token_id is not None)  # tokens per item
        self._has_begun = False
        # The token for a row that no legal token may follow; it is never a part of an item.
        self._end = self.tokens.smallest_other() if eos_token_id is None else eos_token_id

    @property
    def max_new_tokens(self) -> int:
        """Largest number of generated tokens, the end of the sequence included."""
        without_end = self.num_items * self._period - (self.separator_token_id is not None)
        return without_end + (self.eos_token_id is not None)

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Returns the scores, minus infinity at every token that must not come next.

        Args:
            input_ids: The prompts and the generated tokens; the rows of a prompt are neighbours.
            scores: Logits or log-probabilities of the next token.

        Raises:
            ValueError: The trie is on another device; the vocabulary lacks some of the tokens; the
                rows are shorter than the prompt; prompts have different numbers of rows; the rows
                of the first call are longer than the prompt; or `generate` continues after the
                last item.
        """
        self._check_call(input_ids, scores)
        users = None
        if self.num_prompts is not None:
            beams = len(input_ids) // self.num_prompts
            users = torch.arange(len(input_ids), device=input_ids.device) // beams
        following = self._continuations(input_ids[:, self.prompt_length :], users)
        size = (following.num_parents, scores.shape[1])
        struck = torch.ones(size, dtype=torch.bool, device=scores.device)
        struck[following.parents, following.tokens] = ~following.legal
        struck = struck | following.is_dead[:, None]  # [rows, vocabulary]
        struck[:, self._end] = ~following.may_end
        return scores.masked_fill(struck, -torch.inf)

    def prefix_allowed_tokens(self, batch_id: int, input_ids: Int[Tensor, " length"]) -> list[int]:
        """Returns the token ids that may follow one row: a `prefix_allowed_tokens_fn`.

        `generate` calls such a function in Python for each beam and masks beam by beam, which takes
        many times as long. Use it only with code that accepts no logits processor.

        Args:
            batch_id: Number of the prompt.
            input_ids: The prompt and the generated tokens.

        Raises:
            ValueError: There are no lists for this prompt, or the row is shorter than the prompt.
        """
        if self.num_prompts is not None and not 0 <= batch_id < self.num_prompts:
            raise ValueError(
                f"batch_id must be below the number of prompts that have lists, "
                f"{self.num_prompts}, got {batch_id}"
            )
        self._check_length(input_ids.shape[0])
        user = torch.tensor([batch_id], device=input_ids.device)
        following = self._continuations(input_ids[None, self.prompt_length :], user)
        allowed: list[int] = following.tokens[following.legal & ~following.is_dead].tolist()
        return allowed + [self._end] * int(following.may_end)

    def items(self, sequences: Int[Tensor, "rows length"]) -> Int[Tensor, "rows num_items"]:
        """Returns the items in generated sequences, in their order.

        Args:
            sequences: The result of `generate`, prompt included.

        Returns:
            Item rows; -1 where there is no item, or after the end of the sequence.

        Raises:
            ValueError: The sequences are shorter than the prompt.
        """
        self._check_length(sequences.shape[1])
        generated = sequences[:, self.prompt_length :]
        missing = self.num_items * self._period - generated.shape[1]
        generated = F.pad(generated, (0, max(missing, 0)), value=-1)
        rows = torch.stack([self._item(generated, k) for k in range(self.num_items)], dim=1)
        if self.eos_token_id is None:
            return rows
        ended = (generated == self.eos_token_id).cumsum(dim=1) > 0  # [rows, length]
        return rows.masked_fill(ended[:, : self.num_items * self._period : self._period], -1)

    def _continuations(
        self, generated: Int[Tensor, "rows length"], users: Int[Tensor, " rows"] | None
    ) -> Continuations:
        """Returns the tokens that may follow.

        Args:
            generated: Tokens since the prompt.
            users: The prompt of each row; None if prompts have no lists.
        """
        num_rows, device = len(generated), generated.device
        number, level = divmod(generated.shape[1], self._period)
        complete = number + (level == self.trie.num_levels)  # items
        has_ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        if self.eos_token_id is not None:
            has_ended = (generated == self.eos_token_id).any(dim=1)
        at_separator = level == self.trie.num_levels
        is_between = at_separator or (self.separator_token_id is None and level == 0 < number)
        if is_between and complete >= self.num_items:
            none, over = generated.new_empty(0), torch.ones_like(has_ended)
            return Continuations(none, none, none.bool(), 1, is_dead=over, may_end=over)
        # After a complete item the next one begins; a separator is legal if an item could begin.
        prefixes = generated[:, number * self._period :][:, : 0 if at_separator else level]
        depth = prefixes.shape[1]
        nodes = self.trie.nodes(self.tokens.codes(prefixes))  # [rows]
        is_dead, parents = (nodes < 0) | has_ended, nodes.clamp(min=0)
        mask = self._row_mask(generated, complete, users)
        if mask is None and not depth:
            parents = parents[:1]  # the root's children are the same for all rows
        children = self.trie.expand(depth, parents)
        legal = torch.ones_like(children.node, dtype=torch.bool)
        if mask is not None:
            struck = torch.zeros(len(legal), device=device)
            mask.strike(depth, parents[:, None], children, struck)
            legal = struck == 0
            is_dead |= children.totals(legal.float()) == 0
        may_end = is_dead
        if is_between and complete >= self.min_items and self.eos_token_id is not None:
            may_end = torch.ones_like(is_dead)
        if at_separator:
            assert self.separator_token_id is not None
            rows = torch.arange(num_rows, device=device)
            tokens = torch.full_like(rows, self.separator_token_id)
            return Continuations(rows, tokens, ~is_dead, num_rows, is_dead, may_end)
        tokens = self.tokens.ids[level][children.codes]
        return Continuations(children.parent, tokens, legal, len(parents), is_dead, may_end)

    def _row_mask(self, generated: Tensor, complete: int, users: Tensor | None) -> Mask | None:
        """Returns which items may follow in each row; None if all may."""
        num_rows = len(generated)
        if users is None:
            users = torch.zeros(num_rows, dtype=torch.long, device=generated.device)
        repeats = None
        if self.distinct and complete:
            repeats = torch.stack([self._item(generated, k) for k in range(complete)], dim=1)
            repeats = repeats.masked_fill(repeats < 0, self.trie.num_items)
        if self._mask is not None:
            return self._mask.of_rows(users, exclude=repeats)
        return Mask.of(self.trie, num_rows, repeats, None)

    def _item(self, generated: Tensor, number: int) -> Int[Tensor, " rows"]:
        """Returns the item number `number` of each row; -1 where there is none."""
        first = number * self._period
        return self.trie.items(
            self.tokens.codes(generated[:, first : first + self.trie.num_levels])
        )

    def _check_settings(self) -> None:
        if self.prompt_length < 0:
            raise ValueError(f"prompt_length must be at least 0, got {self.prompt_length}")
        if not 1 <= self.min_items <= self.num_items:
            raise ValueError(
                "num_items must be at least min_items, and min_items at least 1, got "
                f"{self.num_items} and {self.min_items}"
            )
        if self.min_items < self.num_items and self.eos_token_id is None:
            raise ValueError(
                f"min_items must be num_items where there is no eos_token_id, got {self.min_items} "
                f"and {self.num_items}: the end of a shorter sequence is not marked"
            )
        for name in ("eos_token_id", "separator_token_id"):
            token = getattr(self, name)
            if token is not None and (token < 0 or token in self.tokens):
                raise ValueError(f"{name} must not be the token of a code, got {token}")
        if self.eos_token_id is not None and self.eos_token_id == self.separator_token_id:
            raise ValueError(
                f"separator_token_id must differ from eos_token_id, got {self.eos_token_id} twice"
            )

    def _check_length(self, length: int) -> None:
        if length < self.prompt_length:
            raise ValueError(
                f"input_ids must hold the prompt of {self.prompt_length} tokens, got {length}"
            )

    def _check_call(self, input_ids: Tensor, scores: Tensor) -> None:
        self._check_length(input_ids.shape[1])
        if not self._has_begun and input_ids.shape[1] != self.prompt_length:
            raise ValueError(
                f"prompt_length must be the width of the prompts, {input_ids.shape[1]} where "
                f"generation begins, got {self.prompt_length}"
            )
        self._has_begun = True
        largest = max(self.tokens.largest, self._end, self.separator_token_id or 0)
        if largest >= scores.shape[1]:
            raise ValueError(
                f"token_ids must lie within the model's vocabulary of {scores.shape[1]} tokens, "
                f"got {largest}: resize the model's embeddings"
            )
        if scores.device != self.trie.device:
            raise ValueError(
                f"trie must be on the model's device {scores.device}, got {self.trie.device}: "
                "call trie.to(device) first"
            )
        if self.num_prompts is not None and len(input_ids) % self.num_prompts:
            raise ValueError(
                f"exclude and allow must hold a list for each prompt, got {self.num_prompts} for "
                f"{len(input_ids)} rows"
            )
        length = input_ids.shape[1] - self.prompt_length
        if self.eos_token_id is None and length >= self.max_new_tokens:
            raise ValueError(
                f"max_new_tokens must be at most {self.max_new_tokens}, the codes of "
                f"{self.num_items} items, where there is no eos_token_id, got more"
            )
