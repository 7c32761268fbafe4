"""Prompts for supervised fine-tuning: a history of items, and the items that come next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from semtok.hf.tokens import ItemTokens

_PLACE = "{history}"


@dataclass(frozen=True, kw_only=True)
class HistoryTemplate:
    """Turns a user's history and next items into a prompt and its completion.

    Examples have the form that libraries for fine-tuning take: `{"prompt": ..., "completion": ...}`
    with two texts, or with two lists of messages if `is_chat` is set. `ItemCollator` makes batches
    of them in which the prompt is not learned.

    Attributes:
        prompt: The text, with "{history}" in place of the items.
        separator: The text between two items.
        is_chat: Whether prompt and completion are messages of a user and an assistant, which
            the tokenizer's chat template writes.
        system: The text of a system message before the user's; "" for none.
        max_items: How many of the latest items of a history are shown; None for all.
    """

    prompt: str = "A customer chose, oldest first: {history}\nNext:"
    separator: str = " "
    is_chat: bool = False
    system: str = ""
    max_items: int | None = None

    def __post_init__(self) -> None:
        if self.prompt.count(_PLACE) != 1:
            raise ValueError(f"prompt must hold {_PLACE} once, got {self.prompt!r}")
        if self.system and not self.is_chat:
            raise ValueError("system has no effect without is_chat")
        if self.max_items is not None and self.max_items < 1:
            raise ValueError(f"max_items must be at least 1, got {self.max_items}")

    def example(
        self,
        tokens: ItemTokens,
        history: Sequence[int] | Int64[np.ndarray, " items"],
        target: Sequence[int] | Int64[np.ndarray, " items"] | None = None,
        *,
        titles: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """The prompt of a history, with the completion if there is a target.

        Args:
            tokens: The tokens of the items.
            history: Rows of items, oldest first.
            target: Rows of the next items; None for a prompt to be answered.
            titles: The title of each item of the table, which the prompt then gives after the
                item's tokens; None for tokens only. A completion always has tokens only.

        Returns:
            "prompt" and, with a target, "completion": texts, or lists of messages.

        Raises:
            ValueError: If there is no such item, or `target` is empty.
        """
        shown = history if self.max_items is None else history[-self.max_items :]
        text = tokens.text(shown, self.separator)
        if titles is not None:
            text = self.separator.join(
                f"{tokens.text([int(row)])} {titles[int(row)]}" for row in shown
            )
        prompt = self.prompt.replace(_PLACE, text)
        example: dict[str, Any] = {"prompt": prompt}
        if target is not None:
            if len(target) == 0:
                raise ValueError("target must hold at least one item, got none")
            example["completion"] = tokens.text(target, self.separator)
        if not self.is_chat:
            return example
        roles = {"prompt": "user", "completion": "assistant"}
        messages = {
            name: [{"role": roles[name], "content": text}] for name, text in example.items()
        }
        if self.system:
            messages["prompt"].insert(0, {"role": "system", "content": self.system})
        return messages
