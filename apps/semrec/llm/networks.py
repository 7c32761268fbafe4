"""The networks and tokenizers of language models: pretrained ones, and tiny ones for tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from semrec.shared.errors import ExperimentError

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_UNKNOWN, _END, _PADDING = "<unk>", "</s>", "<pad>"


def check_model(name: str, *, is_tiny: bool) -> None:
    """Refuses a language model that cannot be read, before a run begins.

    Args:
        name: The value of `semrec.llm.config.Model.model`.
        is_tiny: Whether the model is made with random weights.

    Raises:
        ExperimentError: There is no such model, or this version cannot read it.
        ImportError: The extra is not installed.
    """
    try:
        import peft  # noqa: F401
        from transformers import AutoConfig
    except ModuleNotFoundError as error:
        raise ImportError(
            f"language models need an extra (no module {error.name}): pip install 'semrec[llm]'"
        ) from error
    if is_tiny:
        return
    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: Exception) -> ExperimentError:
    """The error for a model that cannot be read: the requirement and the reason."""
    reason = re.split(r"\.\s|\n", str(error).strip())[0]
    return ExperimentError(
        f"model.model must be tiny-llama, tiny-qwen, or the name or folder of a causal language "
        f"model with safetensors and a tokenizer, got {name!r}: {reason}"
    )


def word_tokenizer(texts: Sequence[str]) -> Any:
    """A tokenizer of the words in some texts; all other words are one unknown token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = pre_tokenizers.Whitespace()
    known = sorted({word for text in texts for word, _ in words.pre_tokenize_str(text)})
    vocabulary = dict.fromkeys([_PADDING, _END, _UNKNOWN, *known])
    numbers = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = words
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=tokenizer, pad_token=_PADDING, eos_token=_END, unk_token=_UNKNOWN)


def tiny_network(name: str, num_tokens: int) -> Any:
    """A causal language model of two layers with random weights.

    Args:
        name: "tiny-llama", with separate output embeddings, or "tiny-qwen", with tied ones.
        num_tokens: The number of tokens of its tokenizer.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if name == "tiny-llama":
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=num_tokens, tie_word_embeddings=False, **_SIZES)
        )
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=num_tokens, tie_word_embeddings=True, **_SIZES))


def read_model(name: str) -> tuple[Any, Any]:
    """The tokenizer and the weights of a model by its name or folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name), read_network(name)
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error


def read_network(name: str) -> Any:
    """A causal language model with 32-bit floats, from safetensors only."""
    from transformers import AutoModelForCausalLM

    show_no_bars()
    return AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, dtype=torch.float32)


def show_no_bars() -> None:
    """Turns off the progress bars of transformers: a run shows its own progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
