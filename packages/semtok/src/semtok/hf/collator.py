"""Batches of texts and items for a language model, with labels for the tokens to be learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from semtok.hf.extra import extra_is_needed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of tokens that are not learned, as the losses of transformers define it."""

Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemCollator:
    """Makes batches of examples in which items appear in text.

    An example is `{"text": ...}`, which is learned as a whole, or `{"prompt": ..., "completion":
    ...}`, of which the completion is learned. Prompt and completion are both texts, or both lists
    of messages, as `HistoryTemplate` makes them. Texts may contain items, as
    `ItemTokens.interleaved` writes them.

    A text begins as the tokenizer begins it and ends with its end-of-text token, which is learned.
    Messages are written by the tokenizer's chat template. For an encoder-decoder, the prompt is
    the input and the completion is the labels.

    Attributes:
        tokenizer: A tokenizer that has the items' tokens.
        is_encoder_decoder: Whether batches are for an encoder-decoder.
        padding_side: The side on which inputs are padded; None for the tokenizer's side.
        max_length: Maximal length of an input in tokens; a longer one is refused. None for no
            limit.
        multiple_of: Lengths of batches are rounded up to a multiple of this.
    """

    tokenizer: PreTrainedTokenizerBase
    is_encoder_decoder: bool = False
    padding_side: Side | None = None
    max_length: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {self.multiple_of}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}")

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch to train on.

        Returns:
            `input_ids`, `attention_mask` and `labels`, int64 [examples, length]. Labels are -100
            on prompts and padding. For a decoder-only model, labels are at the positions of their
            inputs, as transformers shifts them itself.

        Raises:
            ImportError: If `semtok[hf]` is not installed.
            ValueError: If there is no example, or one is too long, lacks a completion, or is of
                another form.
        """
        _check_some(examples)
        pairs = [self._learned(example) for example in examples]
        side: Any = self.padding_side or self.tokenizer.padding_side
        batch = self._inputs([inputs for inputs, _ in pairs], side)
        # A decoder reads labels from the left.
        label_side: Side = "right" if self.is_encoder_decoder else side
        labels = [labels for _, labels in pairs]
        return {**batch, "labels": _padded(labels, IGNORED, label_side, self.multiple_of)}

    def prompts(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch of prompts for `generate`; completions are left out.

        Returns:
            `input_ids` and `attention_mask`, int64 [examples, length]. Inputs of a decoder-only
            model are always padded on the left, so that the answer directly follows the prompt.

        Raises:
            ImportError: If `semtok[hf]` is not installed.
            ValueError: If there is no example, or one has no prompt or is too long.
        """
        _check_some(examples)
        prompts = []
        for example in examples:
            if "prompt" not in example:
                raise ValueError(f"examples must have a prompt, got {_keys(example)}")
            prompts.append(self._prompt(example["prompt"]))
            self._check_length(prompts[-1])
        side = self.padding_side or self.tokenizer.padding_side
        return self._inputs(prompts, side if self.is_encoder_decoder else "left")

    def _learned(self, example: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """The inputs of an example, and their labels."""
        if set(example) not in ({"text"}, {"prompt", "completion"}):
            raise ValueError(
                f"examples must hold a text, or a prompt and a completion, got {_keys(example)}"
            )
        if self.is_encoder_decoder and not isinstance(example.get("prompt"), str):
            raise ValueError(
                "examples must hold a prompt and a completion as texts for an encoder-decoder, "
                f"got {_keys(example)}"
            )
        if "text" in example:
            inputs = self._prompt(example["text"]) + self._end
            labels = list(inputs)
        else:
            prompt = self._prompt(example["prompt"])
            completion = self._completion(example, prompt)
            inputs, labels = prompt + completion, [IGNORED] * len(prompt) + completion
            if self.is_encoder_decoder:
                inputs, labels = prompt, completion
        self._check_length(inputs)
        return inputs, labels

    def _prompt(self, prompt: Any) -> list[int]:
        """The tokens of a prompt, up to where the answer begins."""
        if not isinstance(prompt, str):
            return self._written(prompt, add_generation_prompt=True)
        numbers: list[int] = list(self.tokenizer(prompt)["input_ids"])
        if not self.is_encoder_decoder and self._end and numbers[-1:] == self._end:
            numbers.pop()  # the text continues
        return numbers

    def _completion(self, example: Mapping[str, Any], prompt: list[int]) -> list[int]:
        """The tokens of a completion, its end included."""
        if isinstance(example["prompt"], str) != isinstance(example["completion"], str):
            raise ValueError("prompt and completion must be both texts, or both lists of messages")
        if isinstance(example["completion"], str):
            text = example["completion"]
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) + self._end
        whole = self._written([*example["prompt"], *example["completion"]])
        if whole[: len(prompt)] != prompt:
            raise ValueError(
                "the tokenizer's chat template must write a prompt as the beginning of prompt and "
                "completion, or labels cannot tell them apart"
            )
        return whole[len(prompt) :]

    def _written(self, messages: Sequence[Mapping[str, str]], **options: Any) -> list[int]:
        """The tokens of messages, as the chat template writes them."""
        numbers: Any = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=True, return_dict=False, **options
        )
        return [int(number) for number in numbers]

    @property
    def _end(self) -> list[int]:
        """The end-of-text token, if there is one."""
        end = self.tokenizer.eos_token_id
        return [] if end is None else [end]

    def _check_length(self, inputs: list[int]) -> None:
        if self.max_length is not None and len(inputs) > self.max_length:
            raise ValueError(
                f"examples must have at most max_length ({self.max_length}) tokens, got one of "
                f"{len(inputs)}: show fewer items (HistoryTemplate.max_items), or raise max_length"
            )

    def _inputs(self, rows: list[list[int]], side: Any) -> dict[str, Tensor]:
        """Padded inputs, and the mask of positions that are not padding."""
        filling = self.tokenizer.pad_token_id
        if filling is None:  # padding is masked, so any token will do
            filling = self._end[0] if self._end else 0
        ones = [[1] * len(row) for row in rows]
        return {
            "input_ids": _padded(rows, filling, side, self.multiple_of),
            "attention_mask": _padded(ones, 0, side, self.multiple_of),
        }


def _padded(rows: Sequence[Sequence[int]], filling: int, side: Side, multiple_of: int) -> Tensor:
    """The rows as one tensor, int64 [rows, length]."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise extra_is_needed("batches for a language model", error) from None
    length = max(map(len, rows))
    length += -length % multiple_of
    table = torch.full((len(rows), length), filling, dtype=torch.int64)
    for place, row in enumerate(rows):
        start = length - len(row) if side == "left" else 0
        table[place, start : start + len(row)] = torch.tensor(row, dtype=torch.int64)
    return table


def _check_some(examples: Sequence[Mapping[str, Any]]) -> None:
    if not examples:
        raise ValueError("examples must hold at least one, got none")


def _keys(example: Mapping[str, Any]) -> str:
    return ", ".join(example) or "nothing"
